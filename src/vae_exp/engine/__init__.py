"""Training: devices, seeds, the loop, checkpoints, orderly ends."""
