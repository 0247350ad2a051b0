"""Distributions whose parameters are held fixed: gradients pass through the value alone."""

from functools import singledispatch
from typing import Any

from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal


@singledispatch
def stop_gradient(distribution: Distribution) -> Distribution:
    """The same density with constants for parameters.

    Args:
        distribution: Whose parameters carry gradients.

    Raises:
        TypeError: if the distribution is not registered.
    """
    raise TypeError(
        f"the parameters of a {type(distribution).__name__} cannot be held fixed; "
        f"use a Gaussian posterior, or register yours with vae_exp.distributions.stop_gradient.stop_gradient"
    )


@stop_gradient.register(Independent)
def _(distribution: Any) -> Distribution:
    base = stop_gradient(distribution.base_dist)
    return Independent(base, distribution.reinterpreted_batch_ndims, validate_args=False)


@stop_gradient.register
def _(distribution: Normal) -> Distribution:
    return Normal(distribution.loc.detach(), distribution.scale.detach(), validate_args=False)


@stop_gradient.register
def _(distribution: MultivariateNormal) -> Distribution:
    loc: Tensor = distribution.loc
    return MultivariateNormal(loc.detach(), scale_tril=distribution.scale_tril.detach(), validate_args=False)
