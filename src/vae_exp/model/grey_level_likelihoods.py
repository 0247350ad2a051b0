"""Likelihoods of images with a few grey levels: probabilities, so that bits per dimension mean something."""

from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily

from vae_exp.distributions.discretized import CategoricalLevels, DiscretizedLogistic
from vae_exp.model.likelihoods import Likelihood

_LEAST_LOG_SCALE = -7.0  # of a logistic over [−1, 1], as in PixelCNN++
_MOST_LOG_SCALE = 30.0  # beyond, probabilities of inner levels and their gradients leave float32's range


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
        self.levels = _require_levels(levels)

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
        if components < 1:
            raise ValueError(f"model.likelihood.components={components} must be at least 1.")
        self.components = components
        self.levels = _require_levels(levels)
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
        self.parameters_per_value = _require_levels(levels)

    def forward(self, parameters: Tensor) -> Distribution:
        """Outputs `[..., levels, C, H, W]` → a distribution over `[..., C, H, W]`."""
        return Independent(
            CategoricalLevels(parameters.movedim(-4, -1), validate_args=False), 3, validate_args=False
        )


def _logistic(location: Tensor, log_scale: Tensor, levels: int) -> DiscretizedLogistic:
    scale = log_scale.clamp(_LEAST_LOG_SCALE, _MOST_LOG_SCALE).exp() / 2
    return DiscretizedLogistic((location + 1) / 2, scale, levels, validate_args=False)


def _require_levels(levels: int) -> int:
    if levels < 2:
        raise ValueError(f"model.likelihood.levels={levels} must be at least 2.")
    return levels
