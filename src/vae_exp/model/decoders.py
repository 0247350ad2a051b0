"""Decoders: latents `[..., latent_dim]` → likelihood over `[..., *image_shape]`."""

from collections.abc import Sequence
from math import prod

from torch import Tensor, nn
from torch.distributions import Distribution

from vae_exp.model.likelihoods import BernoulliLikelihood, Likelihood
from vae_exp.model.networks import (
    at_least_float32,
    check_group_norm,
    linear,
    mlp,
    strided_sizes,
    transposed_conv_stack,
)


class MLPDecoder(nn.Module):
    """Fully connected decoder (Kingma & Welling 2014, appendix C.1).

    Args:
        image_shape: `[channels, height, width]`.
        latent_dim: Number of latent units.
        hidden_dims: Widths of the hidden layers as the encoder lists them, from the image inwards: the
            decoder passes through them in reverse.
        activation: A name from `vae_exp.model.networks.ACTIVATIONS`, or `gated`.
        likelihood: What the outputs parameterise; Bernoulli by default.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        latent_dim: int,
        hidden_dims: Sequence[int],
        activation: str,
        likelihood: Likelihood | None = None,
    ) -> None:
        super().__init__()
        self.likelihood = likelihood or BernoulliLikelihood()
        self._output_shape = (self.likelihood.parameters_per_value, *image_shape)
        sizes = [latent_dim, *reversed(hidden_dims)]
        self.hidden = mlp(sizes, activation)
        self.output = nn.Linear(sizes[-1], prod(self._output_shape))

    def forward(self, latents: Tensor) -> Distribution:
        """Latents `[..., latent_dim]` → p(x|z) over `[..., *image_shape]`."""
        outputs = at_least_float32(self.output(self.hidden(latents))).unflatten(-1, self._output_shape)
        likelihood: Distribution = self.likelihood(outputs)
        return likelihood


class ConvDecoder(nn.Module):
    """Convolutional decoder, the mirror of `ConvEncoder`: each layer doubles height and width.

    Args:
        image_shape: `[channels, height, width]`.
        latent_dim: Number of latent units.
        hidden_dims: Channels of the convolutions as the encoder lists them, from the image inwards.
        activation: A name from `vae_exp.model.networks.ACTIVATIONS`, or `gated`.
        likelihood: What the outputs parameterise; Bernoulli by default.
        residual_blocks: How many stand before each convolution (He et al. 2016).
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        latent_dim: int,
        hidden_dims: Sequence[int],
        activation: str,
        likelihood: Likelihood | None = None,
        residual_blocks: int = 0,
    ) -> None:
        super().__init__()
        check_group_norm(hidden_dims, image_shape, residual_blocks)
        self.likelihood = likelihood or BernoulliLikelihood()
        channels, height, width = image_shape
        self._output_shape = (self.likelihood.parameters_per_value, channels, height, width)
        outputs = self.likelihood.parameters_per_value * channels
        stack = [*reversed(hidden_dims), outputs]
        heights = strided_sizes(height, len(hidden_dims))[::-1]
        widths = strided_sizes(width, len(hidden_dims))[::-1]
        self._first_shape = (stack[0], heights[0], widths[0])
        first = prod(self._first_shape)
        self.input = nn.Sequential(
            *(linear(latent_dim, first, activation) if hidden_dims else [nn.Linear(latent_dim, first)])
        )
        self.hidden = transposed_conv_stack(stack, heights, widths, activation, residual_blocks)

    def forward(self, latents: Tensor) -> Distribution:
        """Latents `[..., latent_dim]` → p(x|z) over `[..., *image_shape]`."""
        leading = latents.shape[:-1]
        features = self.input(latents.reshape(-1, latents.shape[-1])).unflatten(-1, self._first_shape)
        outputs = at_least_float32(self.hidden(features)).reshape(*leading, *self._output_shape)
        likelihood: Distribution = self.likelihood(outputs)
        return likelihood
