"""The matrix products of a training step alone: what no engine can go below without computing something else."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from vae_exp.data.images import Batch
from vae_exp.engine.device import matmul_precision
from vae_exp.model.vae import VAE
from vae_exp.objective.loss_terms import Loss

_WARM_UPS = 3


@dataclass
class Layer:
    """What the products of a linear layer are made of.

    Args:
        weight: `[outputs, inputs]`.
        inputs: `[batch, inputs]`.
        passes_on: Whether the gradient by the inputs is needed too; not so for the layer that sees the images.
        gradient: Of the loss by the layer's outputs, `[batch, outputs]`.
    """

    weight: Tensor
    inputs: Tensor
    passes_on: bool
    gradient: Tensor = field(init=False)

    def keep_gradient(self, gradient: Tensor) -> None:
        """A hook of the layer's outputs."""
        self.gradient = gradient.detach().flatten(0, -2)

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
    layers: list[Layer] = []

    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, nn.Linear)
        layers.append(Layer(module.weight.detach(), inputs[0].detach().flatten(0, -2), inputs[0].requires_grad))
        output.register_hook(layers[-1].keep_gradient)

    hooks = [module.register_forward_hook(record) for module in vae.modules() if isinstance(module, nn.Linear)]
    loss(vae, Batch(images), noise).loss.sum().backward()
    for hook in hooks:
        hook.remove()
    vae.zero_grad(set_to_none=True)
    return layers
