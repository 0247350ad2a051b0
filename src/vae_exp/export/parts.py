"""Encoder and decoder as modules from tensors to tensors, without the distributions between them."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vae_exp.distributions.codebook import VectorQuantizedPosterior
from vae_exp.model.vae import VAE


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a part.

    Args:
        name: As ONNX and `model.json` have it.
        shape: Without the batch, which is the first axis.
        dtype: As numpy names it.
        limits: The least and the greatest value; None where there are no bounds.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    limits: tuple[float, float] | None = None


@dataclass(frozen=True)
class ModelPart:
    """What is exported as one program.

    Args:
        name: `encoder` or `decoder`.
        module: Tensors in, tensors out.
        inputs: In the order of the module's arguments.
        outputs: In the order of its results.
    """

    name: str
    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def example(self, count: int) -> tuple[Tensor, ...]:
        """The same random inputs every time, for `count` images: uniform images and labels, normal latents."""
        noise = torch.Generator().manual_seed(count)
        return tuple(_example(spec, count, noise) for spec in self.inputs)

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs of the module itself."""
        with torch.no_grad():
            outputs = self.module(*inputs)
        return outputs if isinstance(outputs, tuple) else (outputs,)


def _example(spec: TensorSpec, count: int, noise: torch.Generator) -> Tensor:
    if spec.dtype == "int64":
        assert spec.limits is not None
        return torch.randint(int(spec.limits[1]) + 1, (count, *spec.shape), generator=noise)
    draw = torch.randn if spec.limits is None else torch.rand
    return draw((count, *spec.shape), generator=noise)


class GaussianEncoder(nn.Module):
    """Images, and labels where the model needs them → mean and log variance of q(z|x), each `[batch, latent_dim]`.

    For a posterior other than a diagonal Gaussian they are those of each latent by itself.
    """

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = _without(vae, "decoder", "prior")

    def forward(self, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Images `[batch, *image_shape]` in [0, 1], labels `[batch]`."""
        posterior = self.vae.encode(images, labels)
        return posterior.mean, posterior.variance.log()


class CodebookEncoder(nn.Module):
    """Images → the codebook's entries `[batch, latent_dim]` and their indices `[batch, positions]`."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = _without(vae, "decoder", "prior")

    def forward(self, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Images `[batch, *image_shape]` in [0, 1], labels `[batch]`."""
        posterior = self.vae.encode(images, labels)
        assert isinstance(posterior, VectorQuantizedPosterior)
        return posterior.mean, posterior.indices


class MeanDecoder(nn.Module):
    """Latents, and labels where the model needs them → the mean image E[x|z]."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = _without(vae, "encoder", "prior")

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Latents `[batch, latent_dim]`, labels `[batch]` → images `[batch, *image_shape]`."""
        return self.vae.decode(latents, labels).mean


def _without(vae: VAE, *names: str) -> VAE:
    """A copy that shares the weights but has not these submodules: a program keeps all that its module has."""
    part = copy.copy(vae)
    part._modules = {name: module for name, module in vae._modules.items() if name not in names}
    return part


def split_model(vae: VAE, image_shape: Sequence[int], chosen: str | None = None) -> list[ModelPart]:
    """Encoder and decoder of a model.

    Args:
        vae: In evaluation mode, on the CPU.
        image_shape: `[channels, height, width]`.
        chosen: `encoder` or `decoder` for that one alone.
    """
    shape = tuple(image_shape)
    images = TensorSpec("images", shape, limits=(0, 1))
    latents = TensorSpec("latents", tuple(vae.prior().event_shape))
    last_label = getattr(vae, "classes", 1) - 1
    labels = (TensorSpec("labels", (), "int64", (0, last_label)),) if vae.needs_labels else ()
    is_bounded = getattr(getattr(vae.decoder, "likelihood", None), "sigmoid_mean", True)
    mean = TensorSpec("images", shape, limits=(0, 1) if is_bounded else None)
    decoder = ModelPart("decoder", MeanDecoder(vae), (latents, *labels), (mean,))
    return [part for part in (_encoder(vae, (images, *labels), latents), decoder) if chosen in (None, part.name)]


def _encoder(vae: VAE, inputs: tuple[TensorSpec, ...], latents: TensorSpec) -> ModelPart:
    posterior = vae.encode(*(_example(spec, 1, torch.Generator()) for spec in inputs))
    if not isinstance(posterior, VectorQuantizedPosterior):
        outputs = TensorSpec("latent_mean", latents.shape), TensorSpec("latent_log_variance", latents.shape)
        return ModelPart("encoder", GaussianEncoder(vae), inputs, outputs)
    codes = TensorSpec("codes", (posterior.positions,), "int64", (0, len(posterior.codebook) - 1))
    return ModelPart("encoder", CodebookEncoder(vae), inputs, (latents, codes))
