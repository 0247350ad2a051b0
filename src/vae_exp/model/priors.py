"""Priors p(z)."""

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal


class StandardNormalPrior(nn.Module):
    """p(z) = N(0, I).

    Args:
        latent_dim: Number of latent units.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self) -> Distribution:
        """The distribution, with event shape `[latent_dim]`."""
        return Independent(Normal(self.loc, self.scale, validate_args=False), 1, validate_args=False)
