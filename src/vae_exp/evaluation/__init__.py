"""Evaluators: objects that score or draw a model, in training and by the `evaluate` command alike."""
