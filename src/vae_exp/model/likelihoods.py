"""Likelihoods p(x|z): Bernoulli, Gaussian, and distributions over grey levels."""

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from vae_exp.argument_checks import check_choice, check_int, check_number
from vae_exp.distributions.bernoulli import LogitBernoulli, LogitContinuousBernoulli, SummedBernoulli
from vae_exp.distributions.discretized import CategoricalLevels, DiscretizedLogistic


class Likelihood(nn.Module):
    """Turns a decoder's outputs into p(x|z).

    A decoder yields `parameters_per_value` numbers for every value of the image.
    """

    parameters_per_value: int

    def forward(self, parameters: Tensor) -> Distribution:
        """Outputs `[..., parameters_per_value, *image_shape]` → a distribution over `[..., *image_shape]`."""
        raise NotImplementedError


class BernoulliLikelihood(Likelihood):
    """p(x|z) = Π Bernoulli(xᵢ; sigmoid(logitᵢ)), parameterised by logits (Kingma & Welling 2014, appendix C).

    Its `log_prob` also takes greyscale values in [0, 1]: then it is minus the cross-entropy that many
    implementations minimise, a lower-is-better score, but not the log-likelihood of any model of grey values.
    """

    parameters_per_value = 1

    def forward(self, parameters: Tensor) -> Distribution:
        """Outputs `[..., 1, C, H, W]` → a distribution over `[..., C, H, W]`."""
        bernoulli = LogitBernoulli(logits=parameters.squeeze(-4), validate_args=False)
        return SummedBernoulli(bernoulli, 3, validate_args=False)


class ContinuousBernoulliLikelihood(Likelihood):
    """p(x|z) = Π C(λᵢ) λᵢ^xᵢ (1 − λᵢ)^(1 − xᵢ) over [0, 1] (Loaiza-Ganem & Cunningham 2019).

    The density that `BernoulliLikelihood` on grey values lacks a constant to be. Its logarithm may be positive: it
    is a density of real values, not a probability of grey levels.
    """

    parameters_per_value = 1

    def forward(self, parameters: Tensor) -> Distribution:
        """Outputs `[..., 1, C, H, W]` → a distribution over `[..., C, H, W]`."""
        return Independent(
            LogitContinuousBernoulli(logits=parameters.squeeze(-4), validate_args=False), 3, validate_args=False
        )


_MIN_SCALE = (
    1e-3  # in units of the pixels; below, a density of 8-bit images only grows by the spacing of their values
)


class FixedGaussianLikelihood(Likelihood):
    """p(x|z) = Π N(xᵢ; μᵢ, σ²) with a fixed σ: squared error times 1/(2σ²).

    Args:
        sigma: σ in units of the pixels, which run from 0 to 1.
        sigmoid_mean: Whether μ is the sigmoid of the decoder's output; otherwise it is the output itself.

    Raises:
        ValueError: if σ is not positive.
    """

    parameters_per_value = 1

    def __init__(self, sigma: float, sigmoid_mean: bool = True) -> None:
        super().__init__()
        self.sigma = check_number("model.likelihood.sigma", sigma, above=0)
        self.sigmoid_mean = check_choice("model.likelihood.sigmoid_mean", sigmoid_mean, (True, False))

    def forward(self, parameters: Tensor) -> Distribution:
        """Outputs `[..., 1, C, H, W]` → a distribution over `[..., C, H, W]`."""
        mean = _mean(parameters.squeeze(-4), sigmoid_mean=self.sigmoid_mean)
        return _gaussian(mean, torch.full_like(mean, self.sigma))


class SharedGaussianLikelihood(Likelihood):
    """p(x|z) = Π N(xᵢ; μᵢ, σ²) with one σ for all pixels, learned with the decoder's weights.

    Args:
        initial_sigma: σ at the start, in units of the pixels; below 0.001 it is not taken.
        sigmoid_mean: As for `FixedGaussianLikelihood`.

    Raises:
        ValueError: if σ starts too low.
    """

    parameters_per_value = 1

    def __init__(self, initial_sigma: float = 1.0, sigmoid_mean: bool = True) -> None:
        super().__init__()
        check_number("model.likelihood.initial_sigma", initial_sigma, above=_MIN_SCALE)  # no gradient leads out
        self.log_sigma = nn.Parameter(torch.tensor(float(initial_sigma)).log())
        self.sigmoid_mean = check_choice("model.likelihood.sigmoid_mean", sigmoid_mean, (True, False))

    def forward(self, parameters: Tensor) -> Distribution:
        """Outputs `[..., 1, C, H, W]` → a distribution over `[..., C, H, W]`."""
        mean = _mean(parameters.squeeze(-4), sigmoid_mean=self.sigmoid_mean)
        return _gaussian(mean, self.log_sigma.exp().clamp(min=_MIN_SCALE).expand_as(mean))


class OptimalGaussianLikelihood(Likelihood):
    """p(x|z) = Π N(xᵢ; μᵢ, σ²) with σ² the mean squared error of the batch (Rybkin, Daniilidis & Levine 2021).

    In training σ is the maximum-likelihood estimate for the batch, treated as a constant in the gradient: the
    derivative of the batch's mean log-likelihood by σ is zero there, so that the gradient of the ELBO is exact.
    Losses that weigh several draws of one image against one another have another optimum and are refused.
    Evaluation uses `variance`, which must not depend on the images that are scored: the trainer sets it to the
    optimum over training images before each validation. Until then it is that of the latest batch.

    Args:
        sigmoid_mean: As for `FixedGaussianLikelihood`.
        momentum: Not used; configs stored by earlier versions have it.
    """

    parameters_per_value = 1
    variance: Tensor

    def __init__(self, sigmoid_mean: bool = True, momentum: float | None = None) -> None:
        super().__init__()
        self.register_buffer("variance", torch.ones(()))
        self.sigmoid_mean = check_choice("model.likelihood.sigmoid_mean", sigmoid_mean, (True, False))

    def forward(self, parameters: Tensor) -> Distribution:
        """Outputs `[..., 1, C, H, W]` → a distribution over `[..., C, H, W]`."""
        mean = _mean(parameters.squeeze(-4), sigmoid_mean=self.sigmoid_mean)
        if self.training and torch.is_grad_enabled():
            return Independent(_FittedNormal(mean, self), 3, validate_args=False)
        return _gaussian(mean, self.variance.sqrt().to(mean.dtype).expand_as(mean))

    @torch.no_grad()
    def fit(self, errors: Tensor) -> Tensor:
        """The maximum-likelihood σ of these errors, whose square becomes `variance`."""
        variance = errors.square().mean()
        self.set_variance(variance)
        return variance.clamp(min=_MIN_SCALE**2).sqrt()

    def set_variance(self, variance: Tensor) -> None:
        """Set the σ² that evaluation uses, a scalar in squared units of the pixels."""
        self.variance.copy_(variance.clamp(min=_MIN_SCALE**2))


class _FittedNormal(Normal):
    """A Gaussian whose σ is fitted to the values that it scores."""

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
        min_sigma: No σᵢ is below it, in units of the pixels; without such a bound the density grows without one.
        sigmoid_mean: As for `FixedGaussianLikelihood`.

    Raises:
        ValueError: if the bound is not positive.
    """

    parameters_per_value = 2

    def __init__(self, min_sigma: float = 0.01, sigmoid_mean: bool = True) -> None:
        super().__init__()
        self.min_sigma = check_number("model.likelihood.min_sigma", min_sigma, above=0)
        self.sigmoid_mean = check_choice("model.likelihood.sigmoid_mean", sigmoid_mean, (True, False))

    def forward(self, parameters: Tensor) -> Distribution:
        """Outputs `[..., 2, C, H, W]` → a distribution over `[..., C, H, W]`."""
        mean, log_scale = parameters.unbind(dim=-4)
        return _gaussian(_mean(mean, sigmoid_mean=self.sigmoid_mean), log_scale.exp().clamp(min=self.min_sigma))


def _mean(outputs: Tensor, *, sigmoid_mean: bool) -> Tensor:
    return outputs.sigmoid() if sigmoid_mean else outputs


def _gaussian(mean: Tensor, scale: Tensor) -> Distribution:
    return Independent(Normal(mean, scale, validate_args=False), 3, validate_args=False)


_MIN_LOG_SCALE = -7.0  # of a logistic over [−1, 1], as in PixelCNN++
_MAX_LOG_SCALE = 30.0  # beyond, probabilities of inner levels and their gradients leave float32's range


class DiscretizedLogisticLikelihood(Likelihood):
    """p(x|z) = Π DiscretizedLogistic(xᵢ; μᵢ, sᵢ) (Kingma et al. 2016).

    The decoder's outputs are μ and log s on the scale from −1 to 1, which is mapped to that of the pixels.

    Args:
        levels: Grey levels of the images.

    Raises:
        ValueError: if there are fewer than two.
    """

    parameters_per_value = 2

    def __init__(self, levels: int = 256) -> None:
        super().__init__()
        self.levels = check_int("model.likelihood.levels", levels, 2)

    def forward(self, parameters: Tensor) -> Distribution:
        """Outputs `[..., 2, C, H, W]` → a distribution over `[..., C, H, W]`."""
        location, log_scale = parameters.unbind(dim=-4)
        return Independent(_logistic(location, log_scale, self.levels), 3, validate_args=False)


class DiscretizedLogisticMixtureLikelihood(Likelihood):
    """p(x|z) = Π Σₖ πᵢₖ DiscretizedLogistic(xᵢ; μᵢₖ, sᵢₖ) (Salimans et al. 2017, section 2.1).

    Channels of a pixel are independent given z; the paper's model of one by another is left out.

    Args:
        components: How many logistics a value has.
        levels: Grey levels of the images.

    Raises:
        ValueError: if there is no component, or fewer than two levels.
    """

    def __init__(self, components: int = 5, levels: int = 256) -> None:
        super().__init__()
        self.components = check_int("model.likelihood.components", components)
        self.levels = check_int("model.likelihood.levels", levels, 2)
        self.parameters_per_value = 3 * components

    def forward(self, parameters: Tensor) -> Distribution:
        """Outputs `[..., 3·components, C, H, W]` → a distribution over `[..., C, H, W]`."""
        logits, location, log_scale = parameters.movedim(-4, -1).chunk(3, dim=-1)
        mixture = MixtureSameFamily(
            Categorical(logits=logits, validate_args=False),
            _logistic(location, log_scale, self.levels),
            validate_args=False,
        )
        return Independent(mixture, 3, validate_args=False)


class CategoricalLikelihood(Likelihood):
    """p(x|z) = Π Categorical(xᵢ) over the grey levels (van den Oord, Kalchbrenner & Kavukcuoglu 2016).

    Args:
        levels: Grey levels of the images; the decoder has an output for each, for every value.

    Raises:
        ValueError: if there are fewer than two.
    """

    def __init__(self, levels: int = 256) -> None:
        super().__init__()
        self.parameters_per_value = check_int("model.likelihood.levels", levels, 2)

    def forward(self, parameters: Tensor) -> Distribution:
        """Outputs `[..., levels, C, H, W]` → a distribution over `[..., C, H, W]`."""
        return Independent(
            CategoricalLevels(parameters.movedim(-4, -1), validate_args=False), 3, validate_args=False
        )


def _logistic(location: Tensor, log_scale: Tensor, levels: int) -> DiscretizedLogistic:
    scale = log_scale.clamp(_MIN_LOG_SCALE, _MAX_LOG_SCALE).exp() / 2
    return DiscretizedLogistic((location + 1) / 2, scale, levels, validate_args=False)
