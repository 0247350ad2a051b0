"""Importance weights, and the estimates of log p(x) made from them."""

from collections.abc import Iterator
from dataclasses import dataclass

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
    """Estimates of log p(x) for each image of a batch, in nats.

    Args:
        value: log (1/K) Σₖ wₖ, `[batch]`, float64 on the CPU (Burda, Grosse & Salakhutdinov 2016, equation 8).
        variance: Monte Carlo variance of `value` by the delta method, (E[w²] / E[w]² − 1) / (K − 1), `[batch]`;
            NaN for K = 1, which tells nothing of its own error.
        effective_samples: (Σₖ wₖ)² / Σₖ wₖ², `[batch]`, from 1 to K: how many of the draws count (Kong 1992).
    """

    value: Tensor
    variance: Tensor
    effective_samples: Tensor


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
    weights = torch.cat(chunks).cpu().double()  # not every device knows float64
    log_sum = weights.logsumexp(dim=0)
    count = torch.tensor(float(num_importance_samples), dtype=torch.float64)
    effective = torch.exp(2 * log_sum - (2 * weights).logsumexp(dim=0))
    return LogEvidence(
        value=log_sum - count.log(),
        variance=(count / effective - 1).clamp(min=0) / (count - 1),
        effective_samples=effective,
    )


def _log_weight_chunks(vae: VAE, images: Tensor, sizes: list[int], generator: torch.Generator) -> Iterator[Tensor]:
    posterior = vae.encode(images)
    prior = vae.prior()
    for size in sizes:
        latents = rsample(posterior, generator, (size,))
        log_joint = prior.log_prob(latents) + vae.decode(latents).log_prob(images)
        yield log_joint - posterior.log_prob(latents)
