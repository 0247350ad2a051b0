"""Bernoulli densities from logits, in as few passes over the pixels as it takes."""

from math import gcd, log
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli, ContinuousBernoulli, Independent
from torch.nn.functional import softplus

from vae_exp.distributions.leading_axis import LastAxisFunction

_MOST_FACTORS = 32  # sigmoids of at least ½ whose product is taken before a logarithm
_SMALL = 0.1  # a logit below which series are exact to float32
_QUANTILE_SMALL = 1e-3  # as above, of the quantile's first-order series, whose error is l² / 60


class LogitBernoulli(Bernoulli):
    """A Bernoulli given by logits l, with log p(x) = (x − [l > 0])·l + log sigmoid(|l|).

    The same function as that of `torch.distributions.Bernoulli`, which spends four times as long in `log1p`;
    the two differ by roundings of float32, about 6e-8 nats a pixel. Values between 0 and 1 are taken too.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probabilities of shape `[*sample_shape, *batch_shape]`, in nats."""
        logits, values = torch.broadcast_tensors(self.logits, value)
        return _LogProb.compute(logits, values)  # type: ignore[no-any-return]


class SummedBernoulli(Independent):  # type: ignore[type-arg]
    """An image of independent `LogitBernoulli` pixels, scored in fewer passes than its pixels one by one."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probabilities summed over the event, in nats."""
        logits, axes = self.base_dist.logits, self.reinterpreted_batch_ndims
        if (
            value.requires_grad
            or logits.shape[max(0, logits.dim() - value.dim()) :] != value.shape
            or logits.dtype != value.dtype
        ):
            return super().log_prob(value)  # type: ignore[no-any-return, no-untyped-call]
        return _SummedLogProb.compute(logits.flatten(-axes), value.flatten(-axes))  # type: ignore[no-any-return]


class _SummedLogProb(LastAxisFunction):
    """Σ x·l − softplus(l) over the last axis, whose derivative by l is x − sigmoid(l)."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, values: Tensor) -> Tensor:
        ctx.save_for_backward(logits, values)
        return summed_by_softplus(logits, values) if logits.is_cuda else summed_by_products(logits, values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        logits, values = ctx.saved_tensors
        return (values - logits.sigmoid()) * gradient.unsqueeze(-1), None


def summed_by_softplus(logits: Tensor, values: Tensor) -> Tensor:
    """Σ x·l − softplus(l) over the last axis in the fewest kernels, which is fastest on a GPU."""
    return softplus(logits).addcmul_(values, logits, value=-1).sum(dim=-1).neg_()


def summed_by_products(logits: Tensor, values: Tensor) -> Tensor:
    """The same on a CPU, where `softplus` takes five times as long as all of this.

    Σ log sigmoid(|l|) is the logarithm of products: up to 32 sigmoids, none below ½, are multiplied before one
    logarithm is taken.
    """
    wrong = torch.gt(logits, 0, out=torch.empty_like(logits)).sub_(values)
    factors = logits.abs().sigmoid_()
    products: Tensor = factors.unflatten(-1, (gcd(factors.shape[-1], _MOST_FACTORS), -1)).prod(dim=-2)
    return products.log_().sum(dim=-1) - wrong.mul_(logits).sum(dim=-1)


class LogitContinuousBernoulli(ContinuousBernoulli):
    """log p(x) = x·l − softplus(l) + log(l / tanh(l/2)) over [0, 1] (Loaiza-Ganem & Cunningham 2019, equation 8).

    The same distribution as `torch.distributions.ContinuousBernoulli`, which goes by the probability and therefore
    stops at logits of about 16 in float32. Density, mean, variance and draws go by the logit here.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-densities of shape `[*sample_shape, *batch_shape]`, in nats."""
        logits, values = torch.broadcast_tensors(self.logits, value)
        log_probability: Tensor = _LogProb.compute(logits, values)
        return log_probability + _log_normaliser(logits)

    @property
    def mean(self) -> Tensor:
        """E[x] = 1/(1 − exp(−l)) − 1/l."""
        small = self.logits.abs() < _SMALL
        logits = torch.where(small, 1.0, self.logits)
        series = 0.5 + self.logits / 12 - self.logits**3 / 720
        return torch.where(small, series, -1 / torch.expm1(-logits) - 1 / logits)

    @property
    def variance(self) -> Tensor:
        """Var[x] = 1/l² − 1/(4 sinh²(l/2)); by its series below |l| = 1, where the difference loses digits."""
        small = self.logits.abs() < 1
        square = self.logits.square()
        series = 1 / 12 - square * (1 / 240 - square * (1 / 6048 - square * (1 / 172800 - square / 5322240)))
        large = torch.where(small, 1.0, self.logits.abs())
        return torch.where(small, series, large**-2 - torch.exp(-large) / torch.expm1(-large).square())

    def icdf(self, value: Tensor) -> Tensor:
        """The quantile log(1 + u (exp(l) − 1)) / l of u; draws are those of uniform u."""
        small = self.logits.abs() < _QUANTILE_SMALL
        large = torch.where(small, 1.0, self.logits)
        # by the symmetry x(u; l) = 1 − x(1 − u; −l), so that exp(l) is at most 1
        lower = torch.where(large > 0, 1 - value, value)
        quantile = torch.log1p(lower * torch.expm1(-large.abs())) / -large.abs()
        quantile = torch.where(large > 0, 1 - quantile, quantile)
        return torch.where(small, value + self.logits * value * (1 - value) / 2, quantile).clamp(0, 1)


def _log_normaliser(logits: Tensor) -> Tensor:
    """The logarithm of l / tanh(l/2); by its series near zero, where the gradient would lose all its digits."""
    small = logits.abs() < _SMALL
    large = torch.where(small, 1.0, logits).abs()
    series = log(2) + logits**2 / 12 - 7 * logits**4 / 1440
    return torch.where(small, series, large.log() - torch.tanh(large / 2).log())


class _LogProb(LastAxisFunction):
    """x·l − softplus(l), whose derivative by l is x − sigmoid(l)."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, values: Tensor) -> Tensor:
        ctx.save_for_backward(logits, values)
        # ones and zeros at once, without a pass over booleans
        positive = torch.gt(logits, 0, out=torch.empty_like(logits))
        return logits.abs().sigmoid_().log_().addcmul_(positive.sub_(values), logits, value=-1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        logits, values = ctx.saved_tensors
        by_logits = (values - logits.sigmoid()) * gradient if ctx.needs_input_grad[0] else None
        by_values = logits * gradient if ctx.needs_input_grad[1] else None
        return by_logits, by_values
