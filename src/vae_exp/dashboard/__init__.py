"""The dashboard: W&B's offline files in a browser, read as they grow, served on loopback or exported."""
