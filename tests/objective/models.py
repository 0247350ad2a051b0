"""Small models whose true likelihood is known."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent, MultivariateNormal, Normal

from vae_exp.model.decoders import MLPDecoder
from vae_exp.model.encoders import MLPEncoder
from vae_exp.model.priors import StandardNormalPrior
from vae_exp.model.vae import VAE
from vae_exp.objective.loss_terms import Loss

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


class FreePosterior(nn.Module):
    """q(z|x) = N(μ, σ²) over one latent, the same for every image: two parameters."""

    def __init__(self, mean: float, scale: float) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor([mean], dtype=torch.float64))
        self.log_scale = nn.Parameter(torch.tensor([scale], dtype=torch.float64).log())

    def forward(self, images: Tensor) -> Distribution:
        mean = self.mean.expand(len(images), 1)
        return Independent(Normal(mean, self.log_scale.exp().expand_as(mean)), 1)


class LogitDecoder(nn.Module):
    """p(x|z) = Π Bernoulli(xᵢ; sigmoid(wᵢ z + bᵢ)) over one latent."""

    def __init__(self) -> None:
        super().__init__()
        size = SHAPE[0] * SHAPE[1] * SHAPE[2]
        drawn = torch.randn(2, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        self.weight, self.bias = nn.Parameter(1.5 * drawn[0]), nn.Parameter(drawn[1])

    def forward(self, latents: Tensor) -> Distribution:
        logits = (latents * self.weight + self.bias).unflatten(-1, SHAPE)
        return Independent(Bernoulli(logits=logits, validate_args=False), 3)


def one_latent_vae() -> VAE:
    """A VAE in float64 whose every expectation is an integral over a line."""
    return VAE(FreePosterior(0.4, 0.6), LogitDecoder(), StandardNormalPrior(1)).double()


IMAGE = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0], dtype=torch.float64).reshape(1, *SHAPE)


def nodes(count: int) -> tuple[Tensor, Tensor]:
    """Places and weights of Gauss–Hermite quadrature for a standard normal variable."""
    places, weights = np.polynomial.hermite_e.hermegauss(count)
    return torch.from_numpy(places), torch.from_numpy(weights / weights.sum())


def log_weight_at(vae: VAE, noise: Tensor) -> Tensor:
    """log w(z) at z = μ + σ·noise for `IMAGE`, written out; `[len(noise)]`, with gradients for all parameters."""
    mean, scale = vae.encoder.mean, vae.encoder.log_scale.exp()
    latents = (mean + scale * noise).unsqueeze(-1)
    logits = latents * vae.decoder.weight + vae.decoder.bias
    log_likelihood = (IMAGE.flatten() * logits - torch.nn.functional.softplus(logits)).sum(-1)
    log_prior = -0.5 * (latents[:, 0] ** 2 + math.log(2 * math.pi))
    log_posterior = -0.5 * (noise**2 + math.log(2 * math.pi)) - vae.encoder.log_scale
    return log_likelihood + log_prior - log_posterior


def expected_bound(vae: VAE, num_samples: int) -> Tensor:
    """E[log (1/K) Σₖ wₖ] for K = 1 or 2 by quadrature, with gradients for all parameters."""
    places, weights = nodes(60)
    log_weight = log_weight_at(vae, places)
    if num_samples == 1:
        return (weights * log_weight).sum()
    pairs = torch.logaddexp(log_weight.unsqueeze(0), log_weight.unsqueeze(1)) - math.log(2)
    return (weights.unsqueeze(0) * weights.unsqueeze(1) * pairs).sum()


def log_evidence_of_image(vae: VAE) -> Tensor:
    """log p(x) of `IMAGE` by quadrature over the prior."""
    places, weights = nodes(100)
    logits = places.unsqueeze(-1) * vae.decoder.weight + vae.decoder.bias
    log_likelihood = (IMAGE.flatten() * logits - torch.nn.functional.softplus(logits)).sum(-1)
    return (log_likelihood + weights.log()).logsumexp(0)


@dataclass
class Sampled:
    """What repeated draws of a loss gave: the mean over them and its standard error."""

    mean: Tensor
    error: Tensor

    def agrees_with(self, truth: Tensor) -> bool:
        """Within 4.5 standard errors, which must themselves be small beside the largest entry."""
        assert self.error.max() < 0.1 * truth.abs().max(), "too few draws to tell anything"
        return bool(((self.mean - truth).abs() <= 4.5 * self.error + 1e-9).all())


def sampled_gradient(loss: Loss, vae: VAE, module: nn.Module, repeats: int = 40, copies: int = 3000) -> Sampled:
    """The gradient of a loss for the parameters of a module, per image, over many independent draws."""
    generator = torch.Generator().manual_seed(5)
    images = IMAGE.expand(copies, *SHAPE)
    parameters = list(module.parameters())
    found = []
    for _ in range(repeats):
        gradients = torch.autograd.grad(loss(vae, images, generator).loss.mean(), parameters)
        found.append(torch.cat([each.flatten() for each in gradients]))
    stacked = torch.stack(found)
    return Sampled(stacked.mean(0), stacked.std(0) / repeats**0.5)


def gradient(value: Tensor, module: nn.Module) -> Tensor:
    """The gradient of a number for the parameters of a module, flat."""
    return torch.cat([each.flatten() for each in torch.autograd.grad(value, list(module.parameters()))])
