"""Two stochastic layers, as in Burda, Grosse & Salakhutdinov 2016: x ← z₁ ← z₂.

The latents of both layers stand side by side, z = [z₁, z₂]: a model of two layers is a VAE like any other, whose
posterior and prior are joint distributions, and whose decoder looks at z₁ alone.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import Tensor, nn
from torch.distributions import Distribution

from vae_exp.argument_checks import check_widths, is_int, refusal
from vae_exp.distributions.hierarchical import HierarchicalGaussian
from vae_exp.model.decoders import MLPDecoder
from vae_exp.model.networks import mlp
from vae_exp.model.posteriors import DiagonalGaussianHead
from vae_exp.model.priors import StandardNormalPrior


class GaussianLayer(nn.Module):
    """One group of units given another: a network whose outputs are mean and log variance.

    Args:
        inputs: Units that are given.
        hidden_dims: Widths of the hidden layers.
        outputs: Units of the Gaussian.
        activation: A name from `vae_exp.model.networks.ACTIVATIONS`.
    """

    def __init__(self, inputs: int, hidden_dims: Sequence[int], outputs: int, activation: str) -> None:
        super().__init__()
        sizes = [inputs, *hidden_dims]
        self.hidden = mlp(sizes, activation)
        self.gaussian = DiagonalGaussianHead(sizes[-1], outputs)

    def forward(self, given: Tensor) -> Any:
        """`[..., inputs]` → an independent Gaussian over `[..., outputs]`."""
        return self.gaussian(self.hidden(given))


class TwoLayerEncoder(nn.Module):
    """q(z₁|x) q(z₂|z₁), each a diagonal Gaussian (Burda et al. 2016, section 5).

    Args:
        image_shape: `[channels, height, width]`.
        latent_dims: Units of z₁ and of z₂.
        hidden_dims: Widths of the hidden layers between the image and z₁, from the image inwards.
        top_hidden_dims: Widths between z₁ and z₂, from z₁ inwards.
        activation: A name from `vae_exp.model.networks.ACTIVATIONS`.

    Raises:
        ValueError: if there are not two layers of latents.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        latent_dims: Sequence[int],
        hidden_dims: Sequence[int],
        top_hidden_dims: Sequence[int],
        activation: str,
    ) -> None:
        super().__init__()
        lower, self._upper = _check_latent_dims("model.latent_dims", latent_dims)
        self.lower = GaussianLayer(prod(image_shape), hidden_dims, lower, activation)
        self.upper = GaussianLayer(
            lower, check_widths("model.top_hidden_dims", top_hidden_dims), self._upper, activation
        )

    def forward(self, images: Tensor) -> Distribution:
        """Images `[batch, *image_shape]` → q(z₁, z₂|x) over `[batch, units of both]`."""
        return HierarchicalGaussian(self.lower(images.flatten(1)), self.upper, self._upper, first_is_upper=False)


class TwoLayerPrior(nn.Module):
    """p(z₁, z₂) = N(z₂; 0, I) p(z₁|z₂), the second a diagonal Gaussian (Burda et al. 2016, section 5).

    Args:
        latent_dims: Units of z₁ and of z₂.
        top_hidden_dims: Widths of the layers between them as the encoder lists them: passed in reverse.
        activation: A name from `vae_exp.model.networks.ACTIVATIONS`.

    Raises:
        ValueError: if there are not two layers of latents.
    """

    def __init__(self, latent_dims: Sequence[int], top_hidden_dims: Sequence[int], activation: str) -> None:
        super().__init__()
        self._lower, upper = _check_latent_dims("model.latent_dims", latent_dims)
        self.top = StandardNormalPrior(upper)
        self.lower = GaussianLayer(upper, list(reversed(top_hidden_dims)), self._lower, activation)

    def forward(self) -> Distribution:
        """The distribution, with event shape `[units of both]`."""
        return HierarchicalGaussian(self.top(), self.lower, self._lower, first_is_upper=True)


class BottomLayerDecoder(MLPDecoder):
    """p(x|z₁): a fully connected decoder that looks at the first of two layers.

    Args:
        image_shape: `[channels, height, width]`.
        latent_dims: Units of z₁ and of z₂.
        arguments: As `MLPDecoder` takes them.
    """

    def __init__(self, image_shape: Sequence[int], latent_dims: Sequence[int], **arguments: object) -> None:
        lower, _ = _check_latent_dims("model.latent_dims", latent_dims)
        super().__init__(image_shape, lower, **arguments)  # type: ignore[arg-type]
        self._lower = lower

    def forward(self, latents: Tensor) -> Distribution:
        """Latents `[..., units of both]` → p(x|z₁) over `[..., *image_shape]`."""
        return super().forward(latents[..., : self._lower])


def _check_latent_dims(name: str, value: Sequence[int]) -> tuple[int, int]:
    is_pair = isinstance(value, Sequence) and len(value) == 2
    if not is_pair or not all(is_int(units, 1) for units in value):
        raise refusal(name, value, "two numbers of units of at least 1, such as [100,50]")
    return value[0], value[1]
