"""VQ-VAE: latents from a learned codebook (van den Oord, Vinyals & Kavukcuoglu 2017)."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vae_exp.distributions.codebook import UniformCodebookPrior, VectorQuantizedPosterior
from vae_exp.model.likelihoods import BernoulliLikelihood, Likelihood
from vae_exp.model.networks import (
    at_least_float32,
    check_group_norm,
    conv_stack,
    strided_sizes,
    transposed_conv_stack,
)


class VQEncoder(nn.Module):
    """A convolutional encoder whose every position takes the nearest entry of a codebook.

    Args:
        image_shape: `[channels, height, width]`.
        num_codes: Entries of the codebook.
        code_dim: Numbers of an entry.
        hidden_dims: Channels of the convolutions; each halves height and width, and what is left are positions.
        activation: A name from `vae_exp.model.networks.ACTIVATIONS`, or `gated`.
        residual_blocks: How many follow each convolution.

    Raises:
        ValueError: if there are fewer than two entries, or none of their numbers.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        num_codes: int,
        code_dim: int,
        hidden_dims: Sequence[int],
        activation: str,
        residual_blocks: int = 0,
    ) -> None:
        super().__init__()
        if num_codes < 2 or code_dim < 1:
            raise ValueError(
                f"model.num_codes={num_codes} must be at least 2, and model.code_dim={code_dim} at least 1."
            )
        check_group_norm(hidden_dims, image_shape, residual_blocks)
        channels = [image_shape[0], *hidden_dims]
        self.positions = prod(code_grid(image_shape, len(hidden_dims)))
        self.hidden = conv_stack(channels, activation, residual_blocks)
        self.output = nn.Conv2d(channels[-1], code_dim, 1)
        self.codebook = nn.Parameter(torch.empty(num_codes, code_dim).uniform_(-1 / num_codes, 1 / num_codes))

    def forward(self, images: Tensor) -> Distribution:
        """Images `[batch, *image_shape]` → codes over `[batch, positions · code_dim]`."""
        outputs = at_least_float32(self.output(self.hidden(images)))
        return VectorQuantizedPosterior(outputs.flatten(2).transpose(1, 2), self.codebook)


class VQDecoder(nn.Module):
    """The mirror of `VQEncoder`.

    Args:
        image_shape: `[channels, height, width]`.
        code_dim: Numbers of an entry of the codebook.
        hidden_dims: Channels of the convolutions as the encoder lists them.
        activation: A name from `vae_exp.model.networks.ACTIVATIONS`, or `gated`.
        likelihood: What the outputs parameterise; Bernoulli by default.
        residual_blocks: How many stand before each convolution.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        code_dim: int,
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
        self._grid = code_grid(image_shape, len(hidden_dims))
        self._code_dim = code_dim
        stack = [*reversed(hidden_dims), self.likelihood.parameters_per_value * channels]
        heights = strided_sizes(height, len(hidden_dims))[::-1]
        widths = strided_sizes(width, len(hidden_dims))[::-1]
        self.input = nn.Conv2d(code_dim, stack[0], 1)
        self.hidden = transposed_conv_stack(stack, heights, widths, activation, residual_blocks)

    def forward(self, latents: Tensor) -> Distribution:
        """Latents `[..., positions · code_dim]` → p(x|z) over `[..., *image_shape]`."""
        leading = latents.shape[:-1]
        entries = latents.reshape(-1, prod(self._grid), self._code_dim)
        features = self.input(entries.transpose(1, 2).unflatten(2, self._grid))
        outputs = at_least_float32(self.hidden(features)).reshape(*leading, *self._output_shape)
        likelihood: Distribution = self.likelihood(outputs)
        return likelihood


class UniformCodesPrior(nn.Module):
    """Every entry of the encoder's codebook equally likely at every position."""

    def __init__(self) -> None:
        super().__init__()
        self._encoder: tuple[VQEncoder, ...] = ()  # in a tuple, so that it is not a part of this module as well

    def attach(self, encoder: nn.Module) -> None:
        """Take the encoder that has the codebook.

        Raises:
            ValueError: if it has none.
        """
        if not isinstance(encoder, VQEncoder):
            raise ValueError(f"model.prior needs a VQEncoder's codebook; {type(encoder).__name__} has none.")
        self._encoder = (encoder,)

    def forward(self) -> Distribution:
        """The distribution, with event shape `[positions · code_dim]`."""
        [encoder] = self._encoder
        return UniformCodebookPrior(encoder.codebook, encoder.positions)


def code_grid(image_shape: Sequence[int], halvings: int) -> tuple[int, int]:
    """Height and width of the grid of positions."""
    _, height, width = image_shape
    return strided_sizes(height, halvings)[-1], strided_sizes(width, halvings)[-1]
