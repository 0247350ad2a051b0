"""Feed-forward stacks that encoders and decoders are built from."""

from collections.abc import Sequence
from itertools import pairwise
from math import ceil, gcd
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vae_exp.argument_checks import check_choice, check_int

GATED = "gated"
Layer = TypeVar("Layer", bound=nn.Module)
_NORM_GROUPS = 8
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


def at_least_float32(outputs: Tensor) -> Tensor:
    """The outputs of a network in float32 where they are in half precision, as they are otherwise."""
    return outputs.float() if outputs.dtype in (torch.bfloat16, torch.float16) else outputs


def activation_module(name: str) -> nn.Module:
    """The activation of that name.

    Raises:
        ValueError: if the name is none of `ACTIVATIONS`.
    """
    check_choice("model.activation", name, [*ACTIVATIONS, GATED])
    return ACTIVATIONS[check_choice("model.activation", name, ACTIVATIONS)]()  # `linear` has the layers of gated


def linear(inputs: int, outputs: int, activation: str) -> list[nn.Module]:
    """A linear layer and its activation; `gated` is a ⊙ σ(b) of two such layers (Dauphin et al. 2017)."""
    if activation == GATED:
        return [mark_halves(nn.Linear(inputs, 2 * outputs)), nn.GLU(dim=-1)]
    return [nn.Linear(inputs, outputs), activation_module(activation)]


def mark_halves(layer: Layer) -> Layer:
    """Mark a layer that is two side by side, the outputs of one after those of the other.

    Each half is initialized, and in a stack filled up with zeros, as a layer of its own.
    """
    layer.halves = 2  # type: ignore[assignment]
    return layer


def mlp(sizes: Sequence[int], activation: str) -> nn.Sequential:
    """Linear layers from `sizes[0]` to `sizes[-1]`, each followed by the activation.

    With a single size the stack is empty and passes its input on.

    Raises:
        ValueError: if a size is below 1.
    """
    if min(sizes) < 1:
        raise ValueError(f"layers of {list(sizes)} units; every width must be at least 1.")
    return nn.Sequential(
        *(layer for inputs, outputs in pairwise(sizes) for layer in linear(inputs, outputs, activation))
    )


class ResidualBlock(nn.Module):
    """x + f(x) with two 3×3 convolutions, each after normalisation and activation (He et al. 2016b).

    Groups of channels are normalised (Wu & He 2018), image by image. f starts at zero, unless
    `model.initialization` draws its weights. With `gated` the first convolution is gated, and nothing else
    activates.

    Args:
        channels: Of input and output.
        activation: A name from `ACTIVATIONS`, or `gated`.
    """

    def __init__(self, channels: int, activation: str) -> None:
        super().__init__()
        groups = gcd(_NORM_GROUPS, channels)
        last = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(last.weight)
        assert last.bias is not None
        nn.init.zeros_(last.bias)
        normalised = [nn.GroupNorm(groups, channels) for _ in range(2)]
        if activation == GATED:
            first = _convolution(nn.Conv2d, channels, channels, activation, padding=1)
            self.inner = nn.Sequential(normalised[0], *first, normalised[1], last)
        else:
            self.inner = nn.Sequential(
                normalised[0],
                activation_module(activation),
                nn.Conv2d(channels, channels, 3, padding=1),
                normalised[1],
                activation_module(activation),
                last,
            )

    def forward(self, features: Tensor) -> Tensor:
        """`[batch, channels, height, width]` → the same shape."""
        added: Tensor = features + self.inner(features)
        return added


def _convolution(
    kind: type[nn.Conv2d | nn.ConvTranspose2d], inputs: int, outputs: int, activation: str, **options: Any
) -> list[nn.Module]:
    """A 3×3 convolution and its activation."""
    if activation == GATED:
        return [mark_halves(kind(inputs, 2 * outputs, 3, **options)), nn.GLU(dim=-3)]
    return [kind(inputs, outputs, 3, **options), activation_module(activation)]


def strided_sizes(size: int, times: int) -> list[int]:
    """The side lengths that a stack of stride-2 convolutions passes through: n, ⌈n/2⌉, ⌈n/4⌉ and so on."""
    sizes = [size]
    for _ in range(times):
        sizes.append(ceil(sizes[-1] / 2))
    return sizes


def check_group_norm(hidden_dims: Sequence[int], image_shape: Sequence[int], residual_blocks: int) -> None:
    """Refuse residual blocks that would normalise single numbers, and so tell nothing of them.

    Args:
        hidden_dims: Channels of the convolutions, from the image inwards.
        image_shape: `[channels, height, width]`.
        residual_blocks: How many there are at each size.

    Raises:
        ValueError: if a map of 1x1 has one channel to each group, or if there is no such number of blocks.
    """
    if not check_int("residual_blocks", residual_blocks, 0):
        return
    heights, widths = (strided_sizes(size, len(hidden_dims))[1:] for size in image_shape[1:])
    for channels, height, width in zip(hidden_dims, heights, widths, strict=True):
        if height == width == 1 and gcd(_NORM_GROUPS, channels) == channels:
            raise ValueError(
                f"model.hidden_dims={list(hidden_dims)} comes to a map of 1x1 with {channels} channels, each of "
                f"which a residual block would normalise alone; use at least {2 * _NORM_GROUPS} there, or fewer "
                f"layers."
            )


def conv_stack(channels: Sequence[int], activation: str, residual_blocks: int = 0) -> nn.Sequential:
    """3×3 convolutions of stride 2, each halving height and width (rounded up), each with activation.

    Args:
        channels: Of the input and of what each convolution yields.
        activation: A name from `ACTIVATIONS`, or `gated`.
        residual_blocks: How many follow each of them.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(channels):
        layers += _convolution(nn.Conv2d, inputs, outputs, activation, stride=2, padding=1)
        layers += [ResidualBlock(outputs, activation) for _ in range(residual_blocks)]
    return nn.Sequential(*layers)


def transposed_conv_stack(
    channels: Sequence[int],
    heights: Sequence[int],
    widths: Sequence[int],
    activation: str,
    residual_blocks: int = 0,
) -> nn.Sequential:
    """The mirror of `conv_stack`: grows through exactly the given heights and widths.

    Residual blocks stand before each convolution. The last convolution has no activation: its output
    parameterises a likelihood.
    """
    layers: list[nn.Module] = []
    steps = list(zip(pairwise(channels), pairwise(heights), pairwise(widths), strict=True))
    for index, ((inputs, outputs), (low, high), (narrow, wide)) in enumerate(steps):
        padding = (high - (2 * low - 1), wide - (2 * narrow - 1))
        options: dict[str, Any] = {"stride": 2, "padding": 1, "output_padding": padding}
        layers += [ResidualBlock(inputs, activation) for _ in range(residual_blocks)]
        if index == len(steps) - 1:
            layers.append(nn.ConvTranspose2d(inputs, outputs, 3, **options))
        else:
            layers += _convolution(nn.ConvTranspose2d, inputs, outputs, activation, **options)
    return nn.Sequential(*layers)
