"""A model of one latent whose every expectation is an integral over a line."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent, Normal

from tests.builders import SHAPE
from vae_exp.data.images import Batch
from vae_exp.model.priors import StandardNormalPrior
from vae_exp.model.vae import VAE
from vae_exp.objective.loss_terms import Loss


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
        gradients = torch.autograd.grad(loss(vae, Batch(images), generator).loss.mean(), parameters)
        found.append(torch.cat([each.flatten() for each in gradients]))
    stacked = torch.stack(found)
    return Sampled(stacked.mean(0), stacked.std(0) / repeats**0.5)


def gradient(value: Tensor, module: nn.Module) -> Tensor:
    """The gradient of a number for the parameters of a module, flat."""
    return torch.cat([each.flatten() for each in torch.autograd.grad(value, list(module.parameters()))])
