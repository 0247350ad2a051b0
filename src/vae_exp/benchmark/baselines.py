"""Plain loops to compare with: the minimalist VAE over a DataLoader of PIL images, and over one tensor."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import ToTensor

from vae_exp.data.images import ImageSet
from vae_exp.model.networks import activation_module


class PlainNet(nn.Module):
    """A perceptron on either side of two heads, with sigmoid outputs.

    Args:
        pixels: Values of an image.
        encoder_dims: Widths of the encoder's hidden layers, from the image inwards.
        latent_dim: Number of latent units.
        decoder_dims: Widths of the decoder's hidden layers, from the latent outwards.
        activation: A name from `vae_exp.model.networks.ACTIVATIONS`.
    """

    def __init__(
        self,
        pixels: int,
        encoder_dims: Sequence[int],
        latent_dim: int,
        decoder_dims: Sequence[int],
        activation: str,
    ) -> None:
        super().__init__()
        inwards, outwards = [pixels, *encoder_dims], [latent_dim, *decoder_dims]
        self.encoder = _hidden_layers(inwards, activation)
        self.mean = nn.Linear(inwards[-1], latent_dim)
        self.log_variance = nn.Linear(inwards[-1], latent_dim)
        self.decoder = _hidden_layers(outwards, activation)
        self.image = nn.Linear(outwards[-1], pixels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images `[batch, pixels]` → their reconstructions, and mean and log variance, `[batch, latent_dim]`."""
        hidden = self.encoder(x)
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        z = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
        return torch.sigmoid(self.image(self.decoder(z))), mean, log_variance


def plain_loss(x: Tensor, reconstruction: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Cross-entropy plus KL in closed form, both summed over the batch, in nats."""
    cross_entropy = binary_cross_entropy(reconstruction, x, reduction="sum")
    kl = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
    return cross_entropy + kl


def _hidden_layers(sizes: Sequence[int], activation: str) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), activation_module(activation)]
    return nn.Sequential(*layers)


class PictureDataset(Dataset[tuple[Tensor, int]]):
    """Images the way torchvision's datasets hand them out: a PIL image each, made a tensor by `ToTensor`.

    Args:
        images: In host memory; grey values other than 0 to 255 are stretched to these.
    """

    def __init__(self, images: ImageSet) -> None:
        self._pixels = _bytes(images)
        self._labels = images.labels
        self._to_tensor = ToTensor()

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        """The image `[channels, height, width]` in [0, 1], and its label (0 where there are none)."""
        label = 0 if self._labels is None else int(self._labels[position])
        return self._to_tensor(Image.fromarray(_picture(self._pixels[position]))), label


class DataLoaderBaseline:
    """The plain DataLoader loop: every image is decoded in every epoch, every step waits for its loss.

    Args:
        net: On the device.
        optimizer: Over its parameters.
        dataset: The training images.
        batch_size: Images per step.
        device: Where batches are taken to.
    """

    def __init__(
        self,
        net: PlainNet,
        optimizer: Optimizer,
        dataset: Dataset[tuple[Tensor, int]],
        batch_size: int,
        device: torch.device,
    ) -> None:
        self._net, self._optimizer, self._device = net, optimizer, device
        self._loader: DataLoader[Any] = DataLoader(dataset, batch_size=batch_size, shuffle=True, num_workers=0)
        self._batches = self._endless()

    def run_steps(self, count: int) -> int:
        """Train on the next batches, epoch after epoch; the number of images."""
        seen = 0
        for _ in range(count):
            images, _ = next(self._batches)
            x = images.view(len(images), -1).to(self._device)
            seen += len(x)
            _plain_step(self._net, self._optimizer, x)
        return seen

    def _endless(self) -> Iterator[Any]:
        while True:
            yield from self._loader


class TensorLoop:
    """The same net and arithmetic over one tensor of floats on the device, shuffled by `randperm`.

    Args:
        net: On the device.
        optimizer: Over its parameters.
        images: All training images as float32 in [0, 1], `[N, pixels]`, on the device.
        batch_size: Images per step.
    """

    def __init__(self, net: PlainNet, optimizer: Optimizer, images: Tensor, batch_size: int) -> None:
        self._net, self._optimizer, self._images, self._batch_size = net, optimizer, images, batch_size
        self._rows = self._endless()

    def run_steps(self, count: int) -> int:
        """Train on the next batches, epoch after epoch; the number of images."""
        seen = 0
        for _ in range(count):
            x = self._images[next(self._rows)]
            seen += len(x)
            _plain_step(self._net, self._optimizer, x)
        return seen

    def _endless(self) -> Iterator[Tensor]:
        while True:
            order = torch.randperm(len(self._images), device=self._images.device)
            yield from order.split(self._batch_size)


def _plain_step(net: PlainNet, optimizer: Optimizer, x: Tensor) -> float:
    loss = plain_loss(x, *net(x))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def _bytes(images: ImageSet) -> Tensor:
    """Grey values 0 to 255, `[N, channels, height, width]`."""
    if images.pixels.dtype == torch.uint8 and images.pixel_max == 255:
        return images.pixels
    return torch.cat([(batch.images * 255).round().to(torch.uint8) for batch in images.batches(1000)])


def _picture(pixels: Tensor) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """`[channels, height, width]` as PIL takes it: `[height, width]`, or `[height, width, channels]`."""
    array: np.ndarray[Any, np.dtype[np.uint8]] = pixels.numpy()
    return array[0] if len(array) == 1 else array.transpose(1, 2, 0)
