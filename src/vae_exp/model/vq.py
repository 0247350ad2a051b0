"""VQ-VAE: latents from a learned codebook (van den Oord, Vinyals & Kavukcuoglu 2017)."""

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vae_exp.argument_checks import check_int
from vae_exp.distributions.codebook import UniformCodebookPrior, VectorQuantizedPosterior
from vae_exp.distributions.sampling import Shard
from vae_exp.model.codebook_updates import (
    OUTPUTS_PER_CODE,
    USAGE_DECAY,
    AllReduceSum,
    check_codebook_options,
    draw_outputs,
    move_to_averages,
    restart_codes,
    spread_outputs,
    sum_by_code,
)
from vae_exp.model.likelihoods import BernoulliLikelihood, Likelihood
from vae_exp.model.networks import (
    at_least_float32,
    check_group_norm,
    conv_stack,
    strided_sizes,
    transposed_conv_stack,
)


class CodeEncoder(nn.Module):
    """Convolutions that end in a grid of positions with `code_dim` numbers each.

    Args:
        image_shape: `[channels, height, width]`.
        code_dim: Numbers of a position.
        hidden_dims: Channels of the convolutions; each halves height and width, and what is left are positions.
        activation: A name from `vae_exp.model.networks.ACTIVATIONS`, or `gated`.
        residual_blocks: How many follow each convolution.

    Attributes:
        codebook: The entries that a position may take, `[codes, code_dim]`; a subclass sets it.
    """

    codebook: Tensor

    def __init__(
        self,
        image_shape: Sequence[int],
        code_dim: int,
        hidden_dims: Sequence[int],
        activation: str,
        residual_blocks: int,
    ) -> None:
        super().__init__()
        check_group_norm(hidden_dims, image_shape, residual_blocks)
        channels = [image_shape[0], *hidden_dims]
        self.positions = prod(code_grid(image_shape, len(hidden_dims)))
        self.hidden = conv_stack(channels, activation, residual_blocks)
        self.output = nn.Conv2d(channels[-1], code_dim, 1)

    def grid_outputs(self, images: Tensor) -> Tensor:
        """Images `[batch, *image_shape]` → outputs `[batch, positions, code_dim]`, not yet quantized."""
        return at_least_float32(self.output(self.hidden(images))).flatten(2).transpose(1, 2)


class VQEncoder(CodeEncoder):
    """A convolutional encoder whose every position takes the nearest entry of a codebook.

    Args:
        image_shape: `[channels, height, width]`.
        num_codes: Entries of the codebook.
        code_dim: Numbers of an entry.
        hidden_dims: Channels of the convolutions; each halves height and width, and what is left are positions.
        activation: A name from `vae_exp.model.networks.ACTIVATIONS`, or `gated`.
        residual_blocks: How many follow each convolution.
        codebook_init: `uniform` draws the entries from U(−1/codes, 1/codes); `data` takes outputs of the encoder
            for training images once `init_codebook` is called.
        codebook_decay: γ of the moving averages that the entries are (van den Oord, Vinyals & Kavukcuoglu 2017,
            appendix A.1); None trains them by gradient.
        restart_below: An entry is moved to a random output of the batch once it is used less than this share of
            even use (Dhariwal et al. 2020); None moves none.

    Raises:
        ValueError: if there are fewer than two entries, none of their numbers, or if an option is out of range.
    """

    usage: Tensor | None

    def __init__(
        self,
        image_shape: Sequence[int],
        num_codes: int,
        code_dim: int,
        hidden_dims: Sequence[int],
        activation: str,
        residual_blocks: int = 0,
        codebook_init: str = "uniform",
        codebook_decay: float | None = None,
        restart_below: float | None = None,
    ) -> None:
        check_int("model.num_codes", num_codes, 2)
        check_int("model.code_dim", code_dim)
        check_codebook_options(codebook_init, codebook_decay, restart_below)
        super().__init__(image_shape, code_dim, hidden_dims, activation, residual_blocks)
        codebook = torch.empty(num_codes, code_dim).uniform_(-1 / num_codes, 1 / num_codes)
        if codebook_decay is None:
            self.codebook = nn.Parameter(codebook)
        else:
            self.register_buffer("codebook", codebook)
        is_counted = codebook_decay is not None or restart_below is not None
        self.register_buffer("usage", torch.ones(num_codes) if is_counted else None)
        self._codebook_init, self._decay, self._restart_below = codebook_init, codebook_decay, restart_below
        self._step: tuple[Tensor, Tensor] | None = None

    def forward(self, images: Tensor) -> Distribution:
        """Images `[batch, *image_shape]` → codes over `[batch, positions · code_dim]`."""
        codes = VectorQuantizedPosterior(self.grid_outputs(images), self.codebook)
        if self.training and self.usage is not None:
            self._step = codes.outputs.detach().flatten(0, 1), codes.indices.flatten()
        return codes

    @torch.no_grad()
    def init_codebook(self, images: Callable[[int], Tensor]) -> None:
        """Move the entries to outputs for training images, where `codebook_init` says so.

        Args:
            images: Called with the number of images that are needed; returns `[count, *image_shape]` or fewer.
        """
        if self._codebook_init == "data":
            outputs = self.grid_outputs(images(-(-OUTPUTS_PER_CODE * len(self.codebook) // self.positions)))
            self.codebook.copy_(spread_outputs(outputs.flatten(0, 1), len(self.codebook)))

    @torch.no_grad()
    def after_step(self, generator: torch.Generator, shard: Shard | None, all_reduce_sum: AllReduceSum) -> None:
        """Follow the outputs of the step with the entries, and restart those that are not used.

        Args:
            generator: Chooses the outputs that entries are moved to.
            shard: Which images of the whole batch this process has; None for all.
            all_reduce_sum: Sums a tensor over all processes, in place.
        """
        if self._step is None or self.usage is None:
            return
        (outputs, indices), self._step = self._step, None
        decay = USAGE_DECAY if self._decay is None else self._decay
        sums, counts = sum_by_code(outputs, indices, len(self.codebook), all_reduce_sum)
        self.usage.mul_(decay).add_(counts, alpha=1 - decay)
        if self._decay is not None:
            move_to_averages(self.codebook, self.usage, sums, counts, decay)
        if self._restart_below is not None:
            first, _, total = shard or (0, 0, len(outputs) // self.positions)
            rows = first * self.positions, total * self.positions
            candidates = draw_outputs(outputs, *rows, len(self.codebook), generator, all_reduce_sum)
            restart_codes(self.codebook, self.usage, candidates, self._restart_below)


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
        self._encoder: tuple[CodeEncoder, ...] = ()  # in a tuple, so that it is not a part of this module as well

    def attach(self, encoder: nn.Module) -> None:
        """Take the encoder that has the codebook.

        Raises:
            ValueError: if it has none.
        """
        if not isinstance(encoder, CodeEncoder):
            raise ValueError(f"model.prior needs an encoder with a codebook; {type(encoder).__name__} has none.")
        self._encoder = (encoder,)

    def forward(self) -> Distribution:
        """The distribution, with event shape `[positions · code_dim]`."""
        [encoder] = self._encoder
        return UniformCodebookPrior(encoder.codebook, encoder.positions)


def code_grid(image_shape: Sequence[int], halvings: int) -> tuple[int, int]:
    """Height and width of the grid of positions."""
    _, height, width = image_shape
    return strided_sizes(height, halvings)[-1], strided_sizes(width, halvings)[-1]
