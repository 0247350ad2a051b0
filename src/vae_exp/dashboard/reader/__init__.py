"""Reader of W&B's offline files."""
