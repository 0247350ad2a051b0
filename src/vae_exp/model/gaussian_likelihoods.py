"""Gaussian likelihoods: four ways to come by σ. They are densities of real values, not of grey levels."""

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from vae_exp.model.likelihoods import Likelihood

_LEAST_SCALE = 1e-3  # in units of the pixels; below, a density of 8-bit images only grows by the grid they lie on


class FixedGaussianLikelihood(Likelihood):
    """p(x|z) = Π N(xᵢ; μᵢ, σ²) with σ given: squared error weighed by 1/(2σ²).

    Args:
        sigma: σ in units of the pixels, which run from 0 to 1.
        bounded: Whether μ is kept between 0 and 1 by a sigmoid; otherwise it is the decoder's output itself.

    Raises:
        ValueError: if σ is not positive.
    """

    parameters_per_value = 1

    def __init__(self, sigma: float, bounded: bool = True) -> None:
        super().__init__()
        self.sigma = _positive("sigma", sigma)
        self.bounded = bounded

    def forward(self, parameters: Tensor) -> Distribution:
        """Outputs `[..., 1, C, H, W]` → a distribution over `[..., C, H, W]`."""
        mean = _mean(parameters.squeeze(-4), bounded=self.bounded)
        return _gaussian(mean, torch.full_like(mean, self.sigma))


class SharedGaussianLikelihood(Likelihood):
    """p(x|z) = Π N(xᵢ; μᵢ, σ²) with one σ for all pixels, learned with the decoder's weights.

    Args:
        initial_sigma: σ at the start, in units of the pixels.
        bounded: As for `FixedGaussianLikelihood`.

    Raises:
        ValueError: if σ is not positive.
    """

    parameters_per_value = 1

    def __init__(self, initial_sigma: float = 1.0, bounded: bool = True) -> None:
        super().__init__()
        self.log_sigma = nn.Parameter(torch.tensor(_positive("initial_sigma", initial_sigma)).log())
        self.bounded = bounded

    def forward(self, parameters: Tensor) -> Distribution:
        """Outputs `[..., 1, C, H, W]` → a distribution over `[..., C, H, W]`."""
        mean = _mean(parameters.squeeze(-4), bounded=self.bounded)
        return _gaussian(mean, self.log_sigma.exp().clamp(min=_LEAST_SCALE).expand_as(mean))


class OptimalGaussianLikelihood(Likelihood):
    """p(x|z) = Π N(xᵢ; μᵢ, σ²) with σ² the mean squared error of the batch (Rybkin, Daniilidis & Levine 2021).

    In training σ is the maximum-likelihood estimate for the batch, treated as a constant in the gradient: the
    derivative of the batch's mean log-likelihood by σ is zero there, so that the gradient of the ELBO is exact.
    Losses that weigh several draws of one image against one another have another optimum and are refused.
    Evaluation uses `variance`, which must not depend on the images that are scored: the trainer sets it to the
    optimum over training images before each validation. Until then it is that of the latest batch.

    Args:
        bounded: As for `FixedGaussianLikelihood`.
        momentum: Not used; configs stored by earlier versions have it.
    """

    parameters_per_value = 1
    variance: Tensor

    def __init__(self, bounded: bool = True, momentum: float | None = None) -> None:
        super().__init__()
        self.register_buffer("variance", torch.ones(()))
        self.bounded = bounded

    def forward(self, parameters: Tensor) -> Distribution:
        """Outputs `[..., 1, C, H, W]` → a distribution over `[..., C, H, W]`."""
        mean = _mean(parameters.squeeze(-4), bounded=self.bounded)
        if self.training and torch.is_grad_enabled():
            return Independent(_FittedNormal(mean, self), 3, validate_args=False)
        return _gaussian(mean, self.variance.sqrt().to(mean.dtype).expand_as(mean))

    @torch.no_grad()
    def fit(self, errors: Tensor) -> Tensor:
        """The maximum-likelihood σ of these errors, whose square becomes `variance`."""
        variance = errors.square().mean()
        self.set_variance(variance)
        return variance.clamp(min=_LEAST_SCALE**2).sqrt()

    def set_variance(self, variance: Tensor) -> None:
        """Set the σ² that evaluation uses, a scalar in squared units of the pixels."""
        self.variance.copy_(variance.clamp(min=_LEAST_SCALE**2))


class _FittedNormal(Normal):
    """A Gaussian that takes its σ from the values it is asked about."""

    def __init__(self, loc: Tensor, likelihood: OptimalGaussianLikelihood) -> None:
        super().__init__(loc, torch.ones_like(loc), validate_args=False)
        self._likelihood = likelihood

    def log_prob(self, value: Tensor) -> Tensor:
        self.scale = self._likelihood.fit(value - self.loc).expand_as(self.loc)
        density: Tensor = super().log_prob(value)  # type: ignore[no-untyped-call]
        return density


class PerPixelGaussianLikelihood(Likelihood):
    """p(x|z) = Π N(xᵢ; μᵢ, σᵢ²) with μ and log σ both from the decoder (Kingma & Welling 2014, appendix C.2).

    Args:
        least_sigma: No σᵢ is below it, in units of the pixels; without such a bound the density grows without one.
        bounded: As for `FixedGaussianLikelihood`.

    Raises:
        ValueError: if the bound is not positive.
    """

    parameters_per_value = 2

    def __init__(self, least_sigma: float = 0.01, bounded: bool = True) -> None:
        super().__init__()
        self.least_sigma = _positive("least_sigma", least_sigma)
        self.bounded = bounded

    def forward(self, parameters: Tensor) -> Distribution:
        """Outputs `[..., 2, C, H, W]` → a distribution over `[..., C, H, W]`."""
        mean, log_scale = parameters.unbind(dim=-4)
        return _gaussian(_mean(mean, bounded=self.bounded), log_scale.exp().clamp(min=self.least_sigma))


def _positive(name: str, value: float) -> float:
    if not value > 0:
        raise ValueError(f"model.likelihood.{name}={value} must be greater than 0.")
    return float(value)


def _mean(outputs: Tensor, *, bounded: bool) -> Tensor:
    return outputs.sigmoid() if bounded else outputs


def _gaussian(mean: Tensor, scale: Tensor) -> Distribution:
    return Independent(Normal(mean, scale, validate_args=False), 3, validate_args=False)
