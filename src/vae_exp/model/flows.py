"""Priors and posteriors by normalising flows."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal
from zuko.flows import MAF

from vae_exp.argument_checks import check_int, check_widths
from vae_exp.distributions.flows import GaussianFlow
from vae_exp.model.networks import at_least_float32
from vae_exp.model.posteriors import DiagonalGaussianHead

_CONTEXT = 32
_PASSES = 2


class FlowPrior(nn.Module):
    """p(z) by a masked autoregressive flow of a standard normal (Papamakarios et al. 2017; Chen et al. 2017).

    Its density takes one pass through the networks, a draw as many as there are latent units.

    Args:
        latent_dim: Number of latent units.
        transforms: How many autoregressive transformations follow one another.
        hidden_dims: Widths of the hidden layers of each.

    Raises:
        ValueError: if there is no transformation, or a width below one.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int, transforms: int = 3, hidden_dims: Sequence[int] = (64, 64)) -> None:
        super().__init__()
        check_int("model.prior.transforms", transforms)
        check_widths("model.prior.hidden_dims", hidden_dims)
        self.flow = MAF(latent_dim, transforms=transforms, hidden_features=list(hidden_dims))
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self) -> Distribution:
        """The distribution, with event shape `[latent_dim]`."""
        base = Independent(Normal(self.loc, self.scale, validate_args=False), 1, validate_args=False)
        return GaussianFlow(self.flow.transform(), base)


class FlowHead(nn.Module):
    """q(z|x): a diagonal Gaussian put through coupling transformations that see x (Rezende & Mohamed 2015).

    Each transformation is autoregressive in two blocks, as a coupling layer is, so that densities and draws both
    take a pass or two through its network, and either is exact. It sees a linear summary of the encoder's
    features.

    Args:
        features: Size of the encoder's features.
        latent_dim: Number of latent units; at least two, or there is nothing to couple.
        transforms: How many transformations follow one another.
        hidden_dims: Widths of the hidden layers of each.

    Raises:
        ValueError: if there is one latent unit only, no transformation, or a width below one.
    """

    def __init__(
        self, features: int, latent_dim: int, transforms: int = 2, hidden_dims: Sequence[int] = (64, 64)
    ) -> None:
        super().__init__()
        if latent_dim < 2:
            raise ValueError(f"model.posterior=flow needs at least 2 latent units, not {latent_dim}.")
        check_int("model.posterior.transforms", transforms)
        check_widths("model.posterior.hidden_dims", hidden_dims)
        self.base = DiagonalGaussianHead(features, latent_dim)
        self.context = nn.Linear(features, _CONTEXT)
        self.flow = MAF(
            latent_dim, _CONTEXT, transforms=transforms, hidden_features=list(hidden_dims), passes=_PASSES
        )

    def forward(self, features: Tensor) -> Distribution:
        """Features `[batch, features]` → a distribution over `[batch, latent_dim]`."""
        base: Distribution = self.base(features)
        assert isinstance(base, Independent)
        return GaussianFlow(self.flow.transform(at_least_float32(self.context(features))), base)
