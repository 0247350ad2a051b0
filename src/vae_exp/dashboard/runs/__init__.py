"""Runs as the dashboard holds them: discovery, history, media."""
