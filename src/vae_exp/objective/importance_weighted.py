"""Importance weights, and the estimates of log p(x) made from them."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import log

import torch
from torch import Tensor

from vae_exp.distributions.sampling import rsample
from vae_exp.model.vae import VAE


def log_weights(vae: VAE, images: Tensor, num_samples: int, generator: torch.Generator) -> Tensor:
    """Log wₖ = log p(x, zₖ) − log q(zₖ|x) for zₖ ~ q(z|x); `[num_samples, batch]`, in nats.

    The encoder is called once per image, however many samples are drawn.
    """
    return next(_log_weight_chunks(vae, images, [num_samples], generator))


@dataclass(frozen=True)
class LogEvidence:
    """Estimates of log p(x) for each image of a batch, in nats, in float64.

    They stay on the device of the images, except on MPS, which has no float64: there they are on the CPU.
    With w̃ₖ = wₖ / Σⱼ wⱼ the normalised importance weights:

    Args:
        value: log (1/K) Σₖ wₖ, `[batch]` (Burda, Grosse & Salakhutdinov 2016, equation 8).
        variance: Monte Carlo variance of `value` by the jackknife, Σₖ (L₋ₖ − mean of L₋ⱼ)² with L₋ₖ the estimate
            without draw k, `[batch]`. Its expectation is at least the variance of the estimate from K − 1 draws
            (Efron & Stein 1981, equation 1.7), also where few draws count and the delta method is too small. NaN
            for K = 1.
        effective_samples: 1 / Σₖ w̃ₖ², `[batch]`, from 1 to K: how many of the draws count (Kong 1992).
        largest_weight: The largest w̃ₖ, `[batch]`, from 1/K to 1.
    """

    value: Tensor
    variance: Tensor
    effective_samples: Tensor
    largest_weight: Tensor


@torch.no_grad()
def log_evidence(
    vae: VAE, images: Tensor, num_importance_samples: int, generator: torch.Generator, chunk_size: int
) -> LogEvidence:
    """Estimate log p(x) by importance sampling from q(z|x), in nats, summed in float64.

    Args:
        vae: The model.
        images: `[batch, *image_shape]` in [0, 1].
        num_importance_samples: Draws of z per image, K; all of them are used.
        generator: The source of the noise.
        chunk_size: The most latents that are decoded at once; bounds the memory.
    """
    per_chunk = max(1, chunk_size // len(images))
    whole, rest = divmod(num_importance_samples, per_chunk)
    sizes = [per_chunk] * whole + [rest] * (rest > 0)
    chunks = list(_log_weight_chunks(vae, images, sizes, generator))
    weights = torch.cat(chunks)
    weights = (weights.cpu() if weights.device.type == "mps" else weights).double()
    log_sum = weights.logsumexp(dim=0)
    return LogEvidence(
        value=log_sum - log(num_importance_samples),
        variance=_jackknife_variance(weights, log_sum),
        effective_samples=torch.exp(2 * log_sum - (2 * weights).logsumexp(dim=0)),
        largest_weight=(weights.amax(dim=0) - log_sum).exp(),
    )


def _jackknife_variance(log_weights: Tensor, log_sum: Tensor) -> Tensor:
    """Σₖ (L₋ₖ − mean of L₋ⱼ)² for L₋ₖ = log Σⱼ wⱼ − log(K − 1) over j ≠ k, `[batch]`."""
    if len(log_weights) == 1:
        return torch.full_like(log_sum, float("nan"))
    changes = torch.log1p(-(log_weights - log_sum).exp())
    largest = log_weights.argmax(dim=0, keepdim=True)  # 1 - w̃ may round to 0 there
    others = log_weights.scatter(0, largest, -torch.inf).logsumexp(dim=0)
    changes.scatter_(0, largest, (others - log_sum).unsqueeze(0))
    return (changes - changes.mean(dim=0)).square().sum(dim=0)


def _log_weight_chunks(vae: VAE, images: Tensor, sizes: list[int], generator: torch.Generator) -> Iterator[Tensor]:
    posterior = vae.encode(images)
    prior = vae.prior()
    for size in sizes:
        latents = rsample(posterior, generator, (size,))
        log_joint = prior.log_prob(latents) + vae.decode(latents).log_prob(images)
        yield log_joint - posterior.log_prob(latents)
