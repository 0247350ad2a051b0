"""Uploading offline W&B runs: finding them, remembering what is done, many at once."""
