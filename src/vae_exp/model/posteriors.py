"""Heads that turn an encoder's features into a posterior distribution."""

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from vae_exp.model.networks import at_least_float32


class DiagonalGaussianHead(nn.Module):
    """q(z|x) = N(μ(x), diag σ²(x)), with log σ² as the linear output (Kingma & Welling 2014, appendix C).

    Args:
        features: Size of the encoder's features.
        latent_dim: Number of latent units.
    """

    def __init__(self, features: int, latent_dim: int) -> None:
        super().__init__()
        self.mean_and_log_variance = nn.Linear(features, 2 * latent_dim)

    def forward(self, features: Tensor) -> Distribution:
        """Features `[batch, features]` → a distribution over `[batch, latent_dim]`."""
        mean, log_variance = at_least_float32(self.mean_and_log_variance(features)).chunk(2, dim=-1)
        scale = torch.exp(0.5 * log_variance)
        return Independent(Normal(mean, scale, validate_args=False), 1, validate_args=False)
