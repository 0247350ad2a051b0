"""A sweep on one node: every job in a process of its own, on a slot of its own."""
