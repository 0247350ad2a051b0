"""The matrix products of a training step alone: what no engine can go below without computing something else."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vae_exp.data.images import Batch
from vae_exp.engine.device import matmul_precision
from vae_exp.model.vae import VAE
from vae_exp.objective.loss_terms import Loss

_WARM_UPS = 3


@dataclass(frozen=True)
class Layer:
    """What the products of a linear layer are made of.

    Args:
        weight: `[outputs, inputs]`.
        inputs: `[batch, inputs]`.
        gradient: Of the loss by the layer's outputs, `[batch, outputs]`.
        passes_on: Whether the gradient by the inputs is needed too; not so for the layer that sees the images.
    """

    weight: Tensor
    inputs: Tensor
    gradient: Tensor
    passes_on: bool

    def products(self) -> list[tuple[Tensor, Tensor]]:
        """The factors: forward, gradient of the weight and, where it is passed on, gradient of the inputs."""
        factors = [(self.inputs, self.weight.t()), (self.gradient.t(), self.inputs)]
        return [*factors, (self.gradient, self.weight)] if self.passes_on else factors


class MatmulFloor:
    """Multiplies, and nothing else, into allocated memory; on CUDA one captured graph is replayed.

    Args:
        vae: Whose weights are used, on the device of the images.
        loss: Gives the gradients.
        images: A batch, `[batch, *image_shape]`, on the device.
        noise: On the device.
        precision: `fp32`, `tf32` or `bf16`; for `bf16` the factors are cast beforehand.
    """

    def __init__(self, vae: VAE, loss: Loss, images: Tensor, noise: torch.Generator, precision: str) -> None:
        self._vae, self._precision, self._batch_size = vae, precision, len(images)
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        factors = [
            (left.to(dtype), right.to(dtype))
            for layer in linear_layers(vae, loss, images, noise)
            for left, right in layer.products()
        ]
        self._products = [(left, right, torch.mm(left, right)) for left, right in factors]
        self._step = self._capture() if images.device.type == "cuda" else self._multiply

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """Rows, inner size and columns of each product."""
        return [(len(left), len(right), right.shape[1]) for left, right, _ in self._products]

    @property
    def operations(self) -> int:
        """Additions and multiplications of a step."""
        return sum(2 * rows * inner * columns for rows, inner, columns in self.shapes)

    @torch.no_grad()
    def run_steps(self, count: int) -> int:
        """The products of `count` steps; the number of images that these would train on."""
        with matmul_precision(self._vae, self._precision):
            for _ in range(count):
                self._step()
        return count * self._batch_size

    def _multiply(self) -> None:
        for left, right, result in self._products:
            torch.mm(left, right, out=result)

    @torch.no_grad()
    def _capture(self) -> Callable[[], None]:
        device = self._products[0][0].device
        with torch.cuda.device(device), matmul_precision(self._vae, self._precision):
            stream = torch.cuda.Stream(device)
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UPS):
                    self._multiply()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                self._multiply()
        replay: Callable[[], None] = graph.replay
        return replay


def linear_layers(vae: VAE, loss: Loss, images: Tensor, noise: torch.Generator) -> list[Layer]:
    """The linear layers that a training step runs through, in order, with what a real step feeds them.

    Args:
        vae: On the device of the images.
        loss: What is differentiated, summed over the batch.
        images: `[batch, *image_shape]`.
        noise: The source of the latent draws.
    """
    seen: list[_LayerRecord] = []
    with _recorded(vae, seen):
        loss(vae, Batch(images), noise).loss.sum().backward()
    vae.zero_grad(set_to_none=True)
    return [each.layer() for each in seen]


class _LayerRecord:
    """A linear layer in the course of a step."""

    def __init__(self, module: nn.Linear, inputs: Tensor) -> None:
        self.module, self.inputs, self.passes_on = module, inputs.detach().flatten(0, -2), inputs.requires_grad
        self.gradient: Tensor | None = None

    def note(self, gradient: Tensor) -> None:
        self.gradient = gradient.detach().flatten(0, -2)

    def layer(self) -> Layer:
        assert self.gradient is not None, "the loss does not depend on this layer"
        return Layer(self.module.weight.detach(), self.inputs, self.gradient, self.passes_on)


@contextmanager
def _recorded(vae: VAE, seen: list[_LayerRecord]) -> Iterator[None]:
    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, nn.Linear)
        seen.append(_LayerRecord(module, inputs[0]))
        output.register_hook(seen[-1].note)

    hooks = [each.register_forward_hook(note) for each in vae.modules() if isinstance(each, nn.Linear)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
