"""dashboard/reader."""
