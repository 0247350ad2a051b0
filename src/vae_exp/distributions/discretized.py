"""Probabilities of pixels that take one of a few grey levels, evenly spaced from 0 to 1."""

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, constraints
from torch.distributions.utils import broadcast_all
from torch.nn.functional import logsigmoid

_CACHED_VALUES = 2**15  # of a mean at once: what a loop over the levels reads again stays in the CPU's cache


class DiscreteLevels(constraints.Constraint):
    """The values k / (levels − 1) for k = 0 … levels − 1.

    Args:
        levels: How many.
    """

    is_discrete = True

    def __init__(self, levels: int) -> None:
        self.levels = levels

    def check(self, value: Tensor) -> Tensor:
        """Whether each value is a level, but for rounding."""
        scaled = value * (self.levels - 1)
        return (value >= 0) & (value <= 1) & ((scaled - scaled.round()).abs() < 1e-3)


class DiscretizedLogistic(Distribution):
    """P(x) = σ((x + δ/2 − μ)/s) − σ((x − δ/2 − μ)/s), δ = 1/(levels − 1) (Salimans et al. 2017, equation 2).

    The lowest and the highest level take the tails, so that the levels' probabilities add up to one. The logarithm
    is computed as log σ(a) + log σ(−b) + log(1 − exp(b − a)), which loses nothing where σ(a) ≈ σ(b).

    Args:
        loc: μ, any shape.
        scale: s, above 0.
        levels: How many grey levels there are.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"loc": constraints.real, "scale": constraints.positive}
    has_rsample = False

    def __init__(self, loc: Tensor, scale: Tensor, levels: int, validate_args: bool | None = None) -> None:
        self.loc, self.scale = broadcast_all(loc, scale)
        self.levels = levels
        super().__init__(self.loc.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> DiscreteLevels:
        """The grey levels."""
        return DiscreteLevels(self.levels)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-probability of one step of levels around each value, in nats; of a level, that of the level."""
        step = 1 / (self.levels - 1)
        upper = (value + step / 2 - self.loc) / self.scale
        lower = (value - step / 2 - self.loc) / self.scale
        up_to, from_on = logsigmoid(upper), logsigmoid(-lower)
        between = up_to + from_on + torch.log(-torch.expm1(-step / self.scale))
        lowest, highest = value < step / 2, value > 1 - step / 2
        return torch.where(lowest, up_to, torch.where(highest, from_on, between))

    @property
    def mean(self) -> Tensor:
        """E[x] = δ Σₖ P(x ≥ k δ), exact."""
        if self.loc.device.type != "cpu" or torch.compiler.is_compiling():
            return self._mean_of(self.loc, self.scale)
        parts = [values.flatten().split(_CACHED_VALUES) for values in (self.loc, self.scale)]
        means = [self._mean_of(loc, scale) for loc, scale in zip(*parts, strict=True)]
        return torch.cat(means).view(self.loc.shape)

    def _mean_of(self, loc: Tensor, scale: Tensor) -> Tensor:
        step = 1 / (self.levels - 1)
        location, slope = loc / scale, scale.reciprocal()
        total = torch.zeros_like(loc)
        for level in range(1, self.levels):
            total = total + torch.sub(location, slope, alpha=(level - 0.5) * step).sigmoid_()
        return total * step

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Draws of shape `[*sample_shape, *batch_shape]`, from torch's global generator."""
        with torch.no_grad():
            uniform = torch.rand((*sample_shape, *self.batch_shape), device=self.loc.device, dtype=self.loc.dtype)
            drawn = self.loc + self.scale * torch.logit(uniform, eps=torch.finfo(uniform.dtype).tiny)
            return (drawn.clamp(0, 1) * (self.levels - 1)).round() / (self.levels - 1)


class CategoricalLevels(Distribution):
    """Every level has a separate probability (van den Oord, Kalchbrenner & Kavukcuoglu 2016, section 3.3).

    Args:
        logits: `[..., levels]`, unnormalised.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"logits": constraints.real_vector}
    has_rsample = False

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self._categorical = Categorical(logits=logits, validate_args=False)
        self.levels = logits.shape[-1]
        super().__init__(self._categorical.batch_shape, validate_args=validate_args)

    @property
    def logits(self) -> Tensor:
        """Normalised, `[..., levels]`."""
        logits: Tensor = self._categorical.logits
        return logits

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> DiscreteLevels:
        """The grey levels."""
        return DiscreteLevels(self.levels)

    def log_prob(self, value: Tensor) -> Tensor:
        """The logarithm of the probability of the level nearest to each value, in nats."""
        log_probability: Tensor = self._categorical.log_prob((value * (self.levels - 1)).round())
        return log_probability

    @property
    def mean(self) -> Tensor:
        """E[x]."""
        levels = torch.linspace(0, 1, self.levels, device=self.logits.device, dtype=self.logits.dtype)
        probabilities: Tensor = self._categorical.probs
        return (probabilities * levels).sum(dim=-1)

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Draws of shape `[*sample_shape, *batch_shape]`, from torch's global generator."""
        drawn: Tensor = self._categorical.sample(torch.Size(sample_shape))
        return drawn.to(self.logits.dtype) / (self.levels - 1)
