"""The commands' common ground: composing with Hydra, messages, printed tables."""
