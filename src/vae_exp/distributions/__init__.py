"""Densities and draws: what `torch.distributions` lacks."""
