"""Priors p(z)."""

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from vae_exp.argument_checks import check_int, check_number
from vae_exp.distributions.gaussian import StandardNormal

_MIN_LOG_SCALE = -6.0


class StandardNormalPrior(nn.Module):
    """p(z) = N(0, I).

    Args:
        latent_dim: Number of latent units.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self) -> Distribution:
        """The distribution, with event shape `[latent_dim]`."""
        return StandardNormal(self.loc, self.scale)


class GaussianMixturePrior(nn.Module):
    """p(z) = Σₖ πₖ N(μₖ, diag σₖ²), all learned (Dilokthanakul et al. 2016; Nalisnick, Hertel & Smyth 2016).

    Args:
        latent_dim: Number of latent units.
        components: How many Gaussians.
        init_std: Standard deviation that the means are drawn with at the start.

    Raises:
        ValueError: if there is no component or `init_std` is negative.
    """

    def __init__(self, latent_dim: int, components: int, init_std: float = 1.0) -> None:
        super().__init__()
        check_int("model.prior.components", components)
        check_number("model.prior.init_std", init_std, minimum=0)
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(init_std * torch.randn(components, latent_dim))
        self.log_scale = nn.Parameter(torch.zeros(components, latent_dim))

    def forward(self) -> Distribution:
        """The distribution, with event shape `[latent_dim]`."""
        scale = self.log_scale.clamp(min=_MIN_LOG_SCALE).exp()
        return _mixture(
            self.logits, Independent(Normal(self.loc, scale, validate_args=False), 1, validate_args=False)
        )


class VampPrior(nn.Module):
    """p(z) = (1/K) Σₖ q(z|uₖ) with K pseudo-inputs uₖ that are learned (Tomczak & Welling 2018, equation 9).

    The encoder is the model's own, which the VAE hands over. Pseudo-inputs are kept in [0, 1] by a sigmoid.

    Args:
        image_shape: `[channels, height, width]`.
        components: K, the number of pseudo-inputs.

    Raises:
        ValueError: if there is no component.
    """

    def __init__(self, image_shape: list[int], components: int) -> None:
        super().__init__()
        check_int("model.prior.components", components)
        self.pseudo_inputs = nn.Parameter(torch.randn(components, *image_shape))
        self._encoder: tuple[nn.Module, ...] = ()  # in a tuple, so that it is not a part of this module as well

    def attach(self, encoder: nn.Module) -> None:
        """Take the encoder that turns pseudo-inputs into components.

        Raises:
            ValueError: if it needs a class, which pseudo-inputs have not.
        """
        if hasattr(encoder, "classes"):
            raise ValueError("model/prior=vamp: pseudo-inputs have no class; choose another prior for this model.")
        self._encoder = (encoder,)

    def forward(self) -> Distribution:
        """The distribution, with event shape `[latent_dim]`."""
        [encoder] = self._encoder
        return _mixture(
            self.pseudo_inputs.new_zeros(len(self.pseudo_inputs)), encoder(self.pseudo_inputs.sigmoid())
        )


def _mixture(logits: Tensor, components: Distribution) -> Distribution:
    return MixtureSameFamily(Categorical(logits=logits, validate_args=False), components, validate_args=False)
