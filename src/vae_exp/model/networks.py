"""Feed-forward stacks that encoders and decoders are built from."""

from collections.abc import Sequence
from itertools import pairwise
from math import ceil

import torch
from torch import Tensor, nn

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
    try:
        return ACTIVATIONS[name]()
    except KeyError:
        known = ", ".join(ACTIVATIONS)
        raise ValueError(f"model.activation={name} is not known; use one of {known}.") from None


def mlp(sizes: Sequence[int], activation: str) -> nn.Sequential:
    """Linear layers from `sizes[0]` to `sizes[-1]`, each followed by the activation.

    With a single size the stack is empty and passes its input on.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), activation_module(activation)]
    return nn.Sequential(*layers)


def halved_sizes(size: int, times: int) -> list[int]:
    """The side lengths that a stack of stride-2 convolutions passes through: n, ⌈n/2⌉, ⌈n/4⌉ and so on."""
    sizes = [size]
    for _ in range(times):
        sizes.append(ceil(sizes[-1] / 2))
    return sizes


def conv_stack(channels: Sequence[int], activation: str) -> nn.Sequential:
    """3×3 convolutions of stride 2, each halving height and width (rounded up), each with activation."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(channels):
        layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), activation_module(activation)]
    return nn.Sequential(*layers)


def transposed_conv_stack(
    channels: Sequence[int], heights: Sequence[int], widths: Sequence[int], activation: str
) -> nn.Sequential:
    """The mirror of `conv_stack`: grows through exactly the given heights and widths.

    The last convolution has no activation: its output parameterises a likelihood.
    """
    layers: list[nn.Module] = []
    steps = zip(pairwise(channels), pairwise(heights), pairwise(widths), strict=True)
    for (inputs, outputs), (low, high), (narrow, wide) in steps:
        padding = (high - (2 * low - 1), wide - (2 * narrow - 1))
        convolution = nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=padding)
        layers += [convolution, activation_module(activation)]
    return nn.Sequential(*layers[:-1])
