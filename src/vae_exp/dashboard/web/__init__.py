"""Server, pages and export of the dashboard."""
