"""Heads that turn an encoder's features into a posterior distribution."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, MultivariateNormal

from vae_exp.argument_checks import check_choice, check_int
from vae_exp.distributions.gaussian import DiagonalGaussian
from vae_exp.model.networks import at_least_float32, mark_halves


class DiagonalGaussianHead(nn.Module):
    """q(z|x) = N(μ(x), diag σ²(x)), with log σ² as the linear output (Kingma & Welling 2014, appendix C).

    Args:
        features: Size of the encoder's features.
        latent_dim: Number of latent units.
    """

    def __init__(self, features: int, latent_dim: int) -> None:
        super().__init__()
        self.mean_and_log_variance = mark_halves(nn.Linear(features, 2 * latent_dim))

    def forward(self, features: Tensor) -> Distribution:
        """Features `[batch, features]` → a distribution over `[batch, latent_dim]`."""
        return DiagonalGaussian(at_least_float32(self.mean_and_log_variance(features)))


class FullCovarianceGaussianHead(nn.Module):
    """q(z|x) = N(μ(x), L(x) L(x)ᵀ) with L lower triangular (Kingma & Welling 2019, section 2.5.1).

    The linear outputs are μ, the logarithms of L's diagonal, and its entries below the diagonal.

    Args:
        features: Size of the encoder's features.
        latent_dim: Number of latent units.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, features: int, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        below = torch.tril_indices(latent_dim, latent_dim, offset=-1)
        self.register_buffer("rows", below[0].clone(), persistent=False)
        self.register_buffer("columns", below[1].clone(), persistent=False)
        self.mean_and_factor = nn.Linear(features, 2 * latent_dim + below.shape[1])

    def forward(self, features: Tensor) -> Distribution:
        """Features `[batch, features]` → a distribution over `[batch, latent_dim]`."""
        outputs = at_least_float32(self.mean_and_factor(features))
        mean, log_diagonal, below = outputs.split(
            [self.latent_dim, self.latent_dim, outputs.shape[-1] - 2 * self.latent_dim], dim=-1
        )
        lower = outputs.new_zeros(outputs.shape[0], self.latent_dim, self.latent_dim)
        lower[:, self.rows, self.columns] = below
        factor = lower + torch.diag_embed(log_diagonal.exp())
        return MultivariateNormal(mean, scale_tril=factor, validate_args=False)


def _flow_head(features: int, latent_dim: int) -> nn.Module:
    from vae_exp.model.flows import FlowHead  # zuko is imported by those that use it

    return FlowHead(features, latent_dim)


POSTERIORS: dict[str, Callable[[int, int], nn.Module]] = {
    "diagonal": DiagonalGaussianHead,
    "full_covariance": FullCovarianceGaussianHead,
    "flow": _flow_head,
}


def posterior_head(name: str, features: int, latent_dim: int) -> nn.Module:
    """The head of that name.

    Raises:
        ValueError: if the name is none of `POSTERIORS`, or there is no latent unit.
    """
    check_int("model.latent_dim", latent_dim)
    return POSTERIORS[check_choice("model.posterior", name, POSTERIORS)](features, latent_dim)
