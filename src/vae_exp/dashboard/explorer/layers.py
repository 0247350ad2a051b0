"""A decoder as a list of layers that the page computes; other decoders stay with torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vae_exp.distributions.bernoulli import LogitContinuousBernoulli
from vae_exp.model.likelihoods import Likelihood
from vae_exp.model.vae import VAE

TOLERANCE = 1e-3  # of a value of the mean image, which runs from 0 to 1
MAX_BYTES = 4_000_000  # of the weights
_MAX_PRODUCTS = 30_000_000  # of one image: about 30 ms in a page
_CHECKED_LATENTS = 16
_ACTIVATIONS: dict[type[nn.Module], tuple[str, Callable[[Tensor], Tensor]]] = {
    nn.ReLU: ("relu", functional.relu),
    nn.LeakyReLU: ("leaky_relu", functional.leaky_relu),
    nn.ELU: ("elu", functional.elu),
    nn.GELU: ("gelu", functional.gelu),
    nn.SiLU: ("silu", functional.silu),
    nn.Softplus: ("softplus", functional.softplus),
    nn.Tanh: ("tanh", torch.tanh),
    nn.Sigmoid: ("sigmoid", torch.sigmoid),
}
_BY_NAME = dict(_ACTIVATIONS.values())
_HEADS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "identity": lambda outputs: outputs,
    "continuous_bernoulli": lambda outputs: LogitContinuousBernoulli(logits=outputs, validate_args=False).mean,
}


@dataclass(frozen=True)
class DecoderLayer:
    """A step of the decoder.

    Args:
        op: `linear`, `conv`, `conv_transpose`, `glu`, `grid` or the name of an activation; at the end that of a
            head, which turns the first `[image_shape]` numbers into the mean image.
        shape: Of what comes out, without the batch.
        options: Of convolutions: `stride`, `padding`, and `height` and `width` of the input.
        weight: `[outputs, inputs]`, or as torch has those of convolutions; None where there is none.
        bias: `[outputs]`; None where there is none.
    """

    op: str
    shape: tuple[int, ...]
    options: dict[str, int] | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None


def decoder_layers(vae: VAE, image_shape: Sequence[int]) -> list[DecoderLayer] | None:
    """The layers of a decoder, in float16 if they are larger than `MAX_BYTES` in float32.

    What the layers compute is compared with the model on random latents; None if they differ by more than
    `TOLERANCE`, or if a layer is of another kind, or if they are too large.

    Args:
        vae: In evaluation mode, on the CPU.
        image_shape: `[channels, height, width]`.
    """
    shape = tuple(image_shape)
    latents = torch.randn(_CHECKED_LATENTS, *vae.prior().event_shape, generator=torch.Generator().manual_seed(0))
    classes = int(getattr(vae, "classes", 0))
    labels = torch.arange(_CHECKED_LATENTS) % classes if vae.needs_labels else None
    inputs = latents if labels is None else torch.cat([latents, functional.one_hot(labels, classes)], dim=1)
    expected = vae.decode(latents, labels).mean
    chain = _record(vae, latents[:1], None if labels is None else labels[:1])
    if chain is None or _count_products(chain) > _MAX_PRODUCTS:
        return None
    for dtype in (torch.float32, torch.float16):
        layers = [_with_dtype(layer, dtype) for layer in chain]
        if size_of(layers) > MAX_BYTES:
            continue
        for start in ([], _grid_start(chain)):
            for head in _HEADS:
                candidate = [*start, *layers, DecoderLayer(head, shape)]
                if _is_close(candidate, inputs, expected):
                    return candidate
    return None


def size_of(layers: Sequence[DecoderLayer]) -> int:
    """Bytes of the weights."""
    return sum(x.nbytes for layer in layers for x in (layer.weight, layer.bias) if x is not None)


def run_layers(layers: Sequence[DecoderLayer], inputs: Tensor) -> Tensor:
    """What the page computes: latents, and classes after them, `[batch, inputs]` → `[batch, *image_shape]`."""
    outputs = inputs
    for layer in layers:
        weight = None if layer.weight is None else layer.weight.float()
        bias = None if layer.bias is None else layer.bias.float()
        if layer.op == "linear":
            assert weight is not None
            outputs = functional.linear(outputs.flatten(1), weight, bias)
        elif layer.op in ("conv", "conv_transpose"):
            outputs = _convolve(layer, outputs, weight, bias)
        elif layer.op == "glu":
            first, second = outputs.flatten(1).chunk(2, dim=1)
            outputs = first * torch.sigmoid(second)
        elif layer.op == "grid":
            outputs = outputs.unflatten(1, (-1, layer.shape[0])).transpose(1, 2)
        elif layer.op in _HEADS and layer is layers[-1]:
            outputs = _HEADS[layer.op](outputs.flatten(1)[:, : prod(layer.shape)])
        else:
            outputs = _BY_NAME[layer.op](outputs)
        outputs = outputs.reshape(-1, *layer.shape)
    return outputs


def _convolve(layer: DecoderLayer, inputs: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    assert weight is not None
    assert layer.options is not None
    stride, padding = layer.options["stride"], layer.options["padding"]
    maps = inputs.reshape(len(inputs), *_input_shape(layer, inputs))
    if layer.op == "conv":
        return functional.conv2d(maps, weight, bias, stride, padding)
    size = [(x - 1) * stride - 2 * padding + k for x, k in zip(maps.shape[2:], weight.shape[2:], strict=True)]
    extra = [out - x for out, x in zip(layer.shape[1:], size, strict=True)]
    return functional.conv_transpose2d(maps, weight, bias, stride, padding, extra)


def _input_shape(layer: DecoderLayer, inputs: Tensor) -> tuple[int, int, int]:
    """`[channels, height, width]` that a convolution reads."""
    assert layer.options is not None
    height, width = layer.options["height"], layer.options["width"]
    return inputs[0].numel() // (height * width), height, width


def _record(vae: VAE, latents: Tensor, labels: Tensor | None) -> list[DecoderLayer] | None:
    """The layers in the order of their calls; None if one of them is of another kind."""
    calls: list[tuple[nn.Module, Tensor, Tensor]] = []
    ignored = (Likelihood, nn.Sequential)  # a stack of no layers is a leaf too
    leaves = [x for x in vae.decoder.modules() if not [*x.children()] and not isinstance(x, ignored)]
    hooks = [
        leaf.register_forward_hook(lambda module, args, output: calls.append((module, args[0], output)))
        for leaf in leaves
    ]
    try:
        vae.decode(latents, labels)
    finally:
        for hook in hooks:
            hook.remove()
    layers = [_layer(*call) for call in calls]
    return None if None in layers else [layer for layer in layers if layer is not None]


def _layer(module: nn.Module, inputs: Tensor, outputs: Any) -> DecoderLayer | None:
    shape = tuple(outputs.shape[1:]) if isinstance(outputs, Tensor) else ()
    if type(module) in _ACTIVATIONS:
        return DecoderLayer(_ACTIVATIONS[type(module)][0], shape)
    if type(module) is nn.GLU:
        return DecoderLayer("glu", shape)
    if type(module) is nn.Linear:
        return DecoderLayer("linear", shape, None, module.weight.detach(), _detach(module.bias))
    if type(module) is nn.Conv2d:
        return _convolution("conv", module, inputs, shape)
    if type(module) is nn.ConvTranspose2d:
        return _convolution("conv_transpose", module, inputs, shape)
    return None


def _convolution(
    op: str, module: nn.Conv2d | nn.ConvTranspose2d, inputs: Tensor, shape: tuple[int, ...]
) -> DecoderLayer | None:
    """One with square kernels and steps, as those of this framework are; None for another."""
    (stride, other), padding = module.stride, module.padding
    is_plain = module.groups == 1 and set(module.dilation) == {1} and module.padding_mode == "zeros"
    is_square = stride == other and len({*module.kernel_size}) == 1 and len({*padding}) == 1
    if isinstance(padding, str) or not is_plain or not is_square:
        return None
    options = {"stride": stride, "padding": padding[0], "height": inputs.shape[-2], "width": inputs.shape[-1]}
    return DecoderLayer(op, shape, options, module.weight.detach(), _detach(module.bias))


def _detach(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach()


def _grid_start(chain: Sequence[DecoderLayer]) -> list[DecoderLayer]:
    """Latents as positions of a grid, which convolutions read as channels: those of codebooks."""
    first = chain[0]
    if first.op != "conv" or first.weight is None or first.options is None:
        return []
    return [DecoderLayer("grid", (first.weight.shape[1], first.options["height"], first.options["width"]))]


def _count_products(chain: Sequence[DecoderLayer]) -> int:
    """Multiplications of one image."""
    products = 0
    for layer in chain:
        if layer.weight is not None:
            positions = prod(layer.shape[1:]) if layer.op == "conv" else 1
            if layer.op == "conv_transpose" and layer.options is not None:
                positions = layer.options["height"] * layer.options["width"]
            products += layer.weight.numel() * positions
    return products


def _with_dtype(layer: DecoderLayer, dtype: torch.dtype) -> DecoderLayer:
    weight = None if layer.weight is None else layer.weight.to(dtype)
    bias = None if layer.bias is None else layer.bias.to(dtype)
    return DecoderLayer(layer.op, layer.shape, layer.options, weight, bias)


def _is_close(layers: Sequence[DecoderLayer], inputs: Tensor, expected: Tensor) -> bool:
    try:
        outputs = run_layers(layers, inputs)
    except RuntimeError:  # shapes that do not follow from one another: no chain
        return False
    same = outputs.shape == expected.shape
    return same and bool((outputs.clamp(0, 1) - expected.clamp(0, 1)).abs().max() <= TOLERANCE / 2)
