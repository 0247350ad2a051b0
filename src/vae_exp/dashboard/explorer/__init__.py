"""What the page needs to move through the latent space of a run, and the process that makes it."""
