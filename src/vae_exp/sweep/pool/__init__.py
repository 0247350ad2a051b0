"""A sweep on one node: each job in its own process, on its own slot."""
