"""Latent spaces for the page, and the process that opens runs with torch."""
