"""FSQ: latents rounded to a few levels each, which need no codebook to be learned (Mentzer et al. 2023)."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor
from torch.distributions import Distribution

from vae_exp.argument_checks import is_int, refusal
from vae_exp.distributions.codebook import FiniteScalarPosterior
from vae_exp.model.likelihoods import Likelihood
from vae_exp.model.vq import CodeEncoder, VQDecoder

_MAX_CODES = 2**20
_MARGIN = 1e-3  # keeps the bounds from being rounded to a level of their own


class FSQEncoder(CodeEncoder):
    """A convolutional encoder whose every number is bounded and rounded to one of a few levels.

    z → tanh(z + s) h − o with h = (L − 1) (1 − 0.001) / 2, o = ½ for even L and 0 for odd, s = tan(o / h), as in
    the code that Mentzer et al. 2023 print; the level is the nearest integer, divided by ⌊L/2⌋.

    Args:
        image_shape: `[channels, height, width]`.
        levels: L for each number of a position; their product is the number of codes.
        hidden_dims: Channels of the convolutions; each halves height and width, and what is left are positions.
        activation: A name from `vae_exp.model.networks.ACTIVATIONS`, or `gated`.
        residual_blocks: How many follow each convolution.

    Raises:
        ValueError: if there are no levels, fewer than two of a number, or too many codes.
    """

    half_range: Tensor
    offset: Tensor
    half_width: Tensor
    basis: Tensor

    def __init__(
        self,
        image_shape: Sequence[int],
        levels: Sequence[int],
        hidden_dims: Sequence[int],
        activation: str,
        residual_blocks: int = 0,
    ) -> None:
        _check_levels("model.encoder.levels", levels)
        super().__init__(image_shape, len(levels), hidden_dims, activation, residual_blocks)
        counts = torch.tensor(list(levels))
        basis = torch.tensor([prod(levels[:index]) for index in range(len(levels))])
        digits = torch.arange(prod(levels)).unsqueeze(1) // basis % counts
        constants = {
            "half_range": (counts - 1) * (1 - _MARGIN) / 2,
            "offset": torch.where(counts % 2 == 1, 0.0, 0.5),
            "half_width": counts // 2,
            "basis": basis,
            "codebook": (digits - counts // 2) / (counts // 2),
        }
        for name, constant in constants.items():
            self.register_buffer(name, constant, persistent=False)

    def forward(self, images: Tensor) -> Distribution:
        """Images `[batch, *image_shape]` → codes over `[batch, positions · code_dim]`."""
        shift = torch.tan(self.offset / self.half_range)
        bounded = torch.tanh(self.grid_outputs(images) + shift) * self.half_range - self.offset
        return FiniteScalarPosterior(bounded, self.half_width, self.basis, self.codebook)


class FSQDecoder(VQDecoder):
    """The mirror of `FSQEncoder`.

    Args:
        image_shape: `[channels, height, width]`.
        levels: As the encoder's.
        hidden_dims: Channels of the convolutions as the encoder lists them.
        activation: A name from `vae_exp.model.networks.ACTIVATIONS`, or `gated`.
        likelihood: What the outputs parameterise; Bernoulli by default.
        residual_blocks: How many stand before each convolution.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        levels: Sequence[int],
        hidden_dims: Sequence[int],
        activation: str,
        likelihood: Likelihood | None = None,
        residual_blocks: int = 0,
    ) -> None:
        super().__init__(image_shape, len(levels), hidden_dims, activation, likelihood, residual_blocks)


def _check_levels(name: str, value: Sequence[int]) -> None:
    are_counts = isinstance(value, Sequence) and all(is_int(count, 2) for count in value)
    if not are_counts or not value or prod(value) > _MAX_CODES:
        allowed = f"integers of at least 2, of a product of at most {_MAX_CODES:,}, such as [8,5,5,5]"
        raise refusal(name, value, allowed)
