"""Where a run's numbers go: a plain file always, Weights & Biases as far as it will have them."""
