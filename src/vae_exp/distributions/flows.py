"""Distributions that a normalising flow makes of a simple one, by zuko's transformations."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal
from zuko.distributions import NormalizingFlow

from vae_exp.distributions.sampling import rsample, sample, sobol_normal, standard_normal

_POINTS = 256  # of the quasi-random estimate of a mean


class GaussianFlow(NormalizingFlow):  # type: ignore[misc]  # zuko has no type annotations
    """The density of z where ε = f(z) is Gaussian (Rezende & Mohamed 2015; Papamakarios et al. 2021).

    Args:
        transform: f, from latents to noise, such as the composition that a lazy flow of zuko's returns.
        base: The Gaussian of ε, independent units.
    """

    def __init__(self, transform: torch.distributions.Transform, base: Distribution) -> None:
        super().__init__(transform, base)

    @property
    def support(self) -> torch.distributions.constraints.Constraint:
        """All of real space."""
        return torch.distributions.constraints.real_vector

    def log_prob(self, value: Tensor) -> Tensor:
        """The density of `[..., *batch_shape, units]` in nats; leading axes broadcast as those of any density."""
        shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        density: Tensor = super().log_prob(value.expand(*shape, value.shape[-1]))
        return density

    @property
    def mean(self) -> Tensor:
        """E[z], to about a hundredth of a deviation: over points of a Sobol sequence, always the same."""
        latents: Tensor = self._points().mean(dim=0)
        return latents

    @property
    def variance(self) -> Tensor:
        """Var[z] per unit, to a few hundredths."""
        spread: Tensor = self._points().var(dim=0, correction=0)
        return spread

    def _points(self) -> Tensor:
        base = self.base.base_dist
        units = base.loc.shape[-1]
        noise = sobol_normal(_POINTS, units).to(base.loc).reshape(-1, *[1] * len(self.batch_shape), units)
        latents: Tensor = self.transform.inv(base.loc + base.scale * noise)
        return latents


@rsample.register
def _(distribution: GaussianFlow, generator: torch.Generator, shape: Sequence[int] = ()) -> Tensor:
    base: Normal = distribution.base.base_dist
    noise = standard_normal(base.loc, generator, shape)
    latents: Tensor = distribution.transform.inv(torch.addcmul(base.loc, base.scale, noise))
    return latents


@sample.register
def _(distribution: GaussianFlow, generator: torch.Generator, shape: Sequence[int] = ()) -> Tensor:
    with torch.no_grad():
        return rsample(distribution, generator, shape)
