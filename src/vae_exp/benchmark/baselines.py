"""Plain loops to compare with: the minimalist VAE over a DataLoader of PIL images, and over one tensor."""

from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from typing import Any

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
        pixels = _bytes(images).numpy()
        self._pictures = pixels[:, 0] if images.image_shape[0] == 1 else pixels.transpose(0, 2, 3, 1)  # as PIL's
        self._labels = images.labels
        self._to_tensor = ToTensor()

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        """The image `[channels, height, width]` in [0, 1], and its label (0 where there are none)."""
        label = 0 if self._labels is None else int(self._labels[position])
        return self._to_tensor(Image.fromarray(self._pictures[position])), label


def picture_batches(
    dataset: Dataset[tuple[Tensor, int]], batch_size: int, device: torch.device
) -> Iterator[Tensor]:
    """Batches `[batch, pixels]` of a DataLoader, epoch after epoch: every image is decoded in every one."""
    loader: DataLoader[Any] = DataLoader(dataset, batch_size=batch_size, shuffle=True, num_workers=0)
    while True:
        for images, _ in loader:
            yield images.view(len(images), -1).to(device)


def tensor_batches(images: Tensor, batch_size: int) -> Iterator[Tensor]:
    """Batches of one tensor of floats on the device, `[N, pixels]`, shuffled by `randperm`, epoch after epoch."""
    while True:
        for rows in torch.randperm(len(images), device=images.device).split(batch_size):
            yield images[rows]


class PlainLoop:
    """A training loop whose every step waits for its loss.

    Args:
        net: On the device.
        optimizer: Over its parameters.
        batches: Without end, `[batch, pixels]` on the device.
    """

    def __init__(self, net: PlainNet, optimizer: Optimizer, batches: Iterator[Tensor]) -> None:
        self._net, self._optimizer, self._batches = net, optimizer, batches

    def run_steps(self, count: int) -> int:
        """Train on the next batches; the number of images."""
        seen = 0
        for x in islice(self._batches, count):
            seen += len(x)
            loss = plain_loss(x, *self._net(x))
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
            loss.item()
        return seen


def _bytes(images: ImageSet) -> Tensor:
    """Grey values 0 to 255, `[N, channels, height, width]`."""
    if images.pixels.dtype == torch.uint8 and images.pixel_max == 255:
        return images.pixels[:]
    return torch.cat([(batch.images * 255).round().to(torch.uint8) for batch in images.batches(1000)])
