"""One training run: start, resume, result, and the trained run read back."""
