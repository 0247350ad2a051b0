"""The joint distribution of two groups of units, the second of which depends on the first."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal, constraints

from vae_exp.distributions.sampling import rsample, sample, sobol_normal, standard_normal

_POINTS = 64  # of the quasi-random estimate of a mean
Conditional = Callable[[Tensor], Any]  # of an Independent Normal


class HierarchicalGaussian(Distribution):
    """p(a) p(b|a), both diagonal Gaussians, over the units of a and b side by side.

    Args:
        first: p(a), with event shape `[units of a]`.
        conditional: a → p(b|a), with event shape `[units of b]`.
        units: How many units b has.
        first_is_upper: Whether a stands behind b: then the event is [b, a], else [a, b].
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 - torch's name
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, first: Distribution, conditional: Conditional, units: int, *, first_is_upper: bool) -> None:
        self.first, self.conditional = first, conditional
        self._first_is_upper = first_is_upper
        self._units = [units, first.event_shape[0]] if first_is_upper else [first.event_shape[0], units]
        super().__init__(first.batch_shape, torch.Size([sum(self._units)]), validate_args=False)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws of torch's global generator, `[*sample_shape, *batch, units]`."""
        a = self.first.rsample(torch.Size(sample_shape))
        return self.join(a, self.conditional(a).rsample())

    def log_prob(self, value: Tensor) -> Tensor:
        """The density of `[..., units]`, `[...]`, in nats."""
        lower, upper = value.split(self._units, dim=-1)
        a, b = (upper, lower) if self._first_is_upper else (lower, upper)
        density: Tensor = self.first.log_prob(a) + self.conditional(a).log_prob(b)
        return density

    @property
    def mean(self) -> Tensor:
        """E[a] exactly, and E[b] to about a hundredth of a deviation: over points of a Sobol sequence."""
        return self.join(self.first.mean, self._second().mean.mean(dim=0))

    @property
    def variance(self) -> Tensor:
        """Var[a] exactly, and Var[b] to a few hundredths."""
        second = self._second()
        return self.join(self.first.variance, second.variance.mean(dim=0) + second.mean.var(dim=0, correction=0))

    def _second(self) -> Any:
        """p(b|a) at quasi-random points of p(a)."""
        mean, deviation = self.first.mean, self.first.stddev
        units = mean.shape[-1]
        noise = sobol_normal(_POINTS, units).to(mean).reshape(-1, *[1] * len(self.batch_shape), units)
        return self.conditional(mean + deviation * noise)

    def join(self, a: Tensor, b: Tensor) -> Tensor:
        """Concatenate both groups in the order of the event."""
        return torch.cat([b, a] if self._first_is_upper else [a, b], dim=-1)


@rsample.register
def _(distribution: HierarchicalGaussian, generator: torch.Generator, shape: Sequence[int] = ()) -> Tensor:
    a = rsample(distribution.first, generator, shape)
    base: Normal = distribution.conditional(a).base_dist
    noise = standard_normal(base.loc[(0,) * len(shape)], generator, shape)  # the batch is the first axis of it
    return distribution.join(a, torch.addcmul(base.loc, base.scale, noise))


@sample.register
def _(distribution: HierarchicalGaussian, generator: torch.Generator, shape: Sequence[int] = ()) -> Tensor:
    with torch.no_grad():
        return rsample(distribution, generator, shape)
