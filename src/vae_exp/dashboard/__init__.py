"""A page for the browser over W&B's offline files: read as they grow, served on the loopback address, exported."""
