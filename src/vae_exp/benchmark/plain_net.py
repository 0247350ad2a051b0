"""The minimalist VAE, written without the package's model and objective: what the engine is measured against."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy

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
