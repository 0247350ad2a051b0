"""Small models whose true likelihood is known."""

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from vae_exp.model.decoders import MLPDecoder
from vae_exp.model.encoders import MLPEncoder
from vae_exp.model.priors import StandardNormalPrior
from vae_exp.model.vae import VAE

SHAPE = (1, 2, 3)


def bernoulli_vae(latent_dim: int, seed: int = 0, scale: float = 2.0) -> VAE:
    """A small VAE with exaggerated weights, so that its posterior is far from its encoder's."""
    torch.manual_seed(seed)
    vae = VAE(
        MLPEncoder(SHAPE, latent_dim, [5], "tanh"),
        MLPDecoder(SHAPE, latent_dim, [7], "tanh"),
        StandardNormalPrior(latent_dim),
    )
    with torch.no_grad():
        for parameter in vae.decoder.parameters():
            parameter.mul_(scale)
    return vae.eval()


class LinearGaussianDecoder(nn.Module):
    """p(x|z) = N(Wz + b, σ²I)."""

    def __init__(self, latent_dim: int, sigma: float, generator: torch.Generator) -> None:
        super().__init__()
        size = SHAPE[0] * SHAPE[1] * SHAPE[2]
        self.weight = nn.Parameter(torch.randn(size, latent_dim, generator=generator))
        self.bias = nn.Parameter(torch.randn(size, generator=generator))
        self.sigma = sigma

    def forward(self, latents: Tensor) -> Distribution:
        mean = (latents @ self.weight.T + self.bias).unflatten(-1, SHAPE)
        return Independent(Normal(mean, self.sigma, validate_args=False), 3, validate_args=False)

    def log_evidence(self, images: Tensor) -> Tensor:
        """log N(x; b, WWᵀ + σ²I)."""
        covariance = self.weight @ self.weight.T + self.sigma**2 * torch.eye(len(self.bias))
        return MultivariateNormal(self.bias, covariance).log_prob(images.flatten(1))


class BlurredPosterior(nn.Module):
    """The exact posterior of a linear-Gaussian model, widened by a factor to make it inexact."""

    def __init__(self, decoder: LinearGaussianDecoder, widening: float) -> None:
        super().__init__()
        self.decoder = decoder
        self.widening = widening

    def forward(self, images: Tensor) -> Distribution:
        decoder = self.decoder
        precision = torch.eye(decoder.weight.shape[1]) + decoder.weight.T @ decoder.weight / decoder.sigma**2
        covariance = torch.linalg.inv(precision)
        mean = (images.flatten(1) - decoder.bias) @ decoder.weight @ covariance / decoder.sigma**2
        spread = self.widening * covariance.diagonal().sqrt().expand_as(mean)
        return Independent(Normal(mean, spread, validate_args=False), 1, validate_args=False)


def linear_gaussian_vae(latent_dim: int, generator: torch.Generator, widening: float = 1.3) -> VAE:
    decoder = LinearGaussianDecoder(latent_dim, 0.7, generator)
    return VAE(BlurredPosterior(decoder, widening), decoder, StandardNormalPrior(latent_dim))
