"""Objectives that weigh the rate: β-VAE, controlled capacity, free bits."""

import torch
from torch import Tensor

from vae_exp.argument_checks import check_choice, check_int
from vae_exp.data.images import Batch
from vae_exp.distributions.kl import kl_per_dimension
from vae_exp.model.vae import VAE
from vae_exp.objective.loss_terms import LossTerms
from vae_exp.objective.posterior_samples import draws, refuse_codes, sample_posterior
from vae_exp.objective.schedules import Schedule, as_scalar, value_of


class BetaVAE:
    """−E_q(z|x)[log p(x|z)] + β KL(q(z|x) ‖ p(z)) (Higgins et al. 2017, equation 4).

    Both terms are in nats per image, so that β means the same whatever the size of images and latents. The paper's
    normalised β is β · latent_dim / number of pixels. β = 1 is the ELBO.

    Args:
        beta: β, the weight of the rate, or a schedule; above 1 it favours a low rate over the distortion.
        num_samples: Draws of z per image.

    Raises:
        ValueError: if β is negative or there is no draw.
    """

    def __init__(self, beta: float | Schedule, num_samples: int = 1) -> None:
        self.beta = as_scalar("loss.beta", beta, minimum=0)
        self.num_samples = check_int("loss.num_samples", num_samples)

    def __call__(self, vae: VAE, batch: Batch, generator: torch.Generator) -> LossTerms:
        """A batch of images → terms of shape `[batch]`, in nats."""
        samples = sample_posterior(vae, batch, generator, draws(self.num_samples))
        refuse_codes(samples.posterior, "the rate")
        distortion, rate = samples.distortion, samples.rate
        return LossTerms(loss=distortion + value_of(self.beta) * rate, distortion=distortion, rate=rate)


class CapacityVAE:
    """−E_q(z|x)[log p(x|z)] + γ |KL(q(z|x) ‖ p(z)) − C| (Burgess et al. 2018, equation 8).

    The rate is held at C nats, which usually rises from zero. C = 0 and γ = 1 is the ELBO.

    Args:
        gamma: γ, how strongly the rate is held, or a schedule.
        capacity: C in nats per image, or a schedule.
        num_samples: Draws of z per image.
        over: `image` holds the rate of each image at C, as equation 8 is written; `batch` holds the mean rate of
            the batch there, γ |mean rate − C| charged to every image, as published implementations do (such as
            disentanglement_lib, Locatello et al. 2019).

    Raises:
        ValueError: if γ or C is negative, there is no draw, or `over` is another word.
    """

    def __init__(
        self, gamma: float | Schedule, capacity: float | Schedule, num_samples: int = 1, over: str = "image"
    ) -> None:
        self.gamma = as_scalar("loss.gamma", gamma, minimum=0)
        self.capacity = as_scalar("loss.capacity", capacity, minimum=0)
        self.num_samples = check_int("loss.num_samples", num_samples)
        self.over = check_choice("loss.over", over, ("image", "batch"))

    def __call__(self, vae: VAE, batch: Batch, generator: torch.Generator) -> LossTerms:
        """A batch of images → terms of shape `[batch]`, in nats."""
        samples = sample_posterior(vae, batch, generator, draws(self.num_samples))
        refuse_codes(samples.posterior, "the rate")
        distortion, rate = samples.distortion, samples.rate
        target = rate.mean() if self.over == "batch" else rate
        penalty = value_of(self.gamma) * (target - value_of(self.capacity)).abs()
        return LossTerms(loss=distortion + penalty, distortion=distortion, rate=rate)


class FreeBits:
    """−E_q(z|x)[log p(x|z)] + Σⱼ max(λ, E_batch[KL(q(zⱼ|x) ‖ p(zⱼ))]) (Kingma et al. 2016, equation 15).

    A unit whose rate, averaged over the batch, is below λ is neither pushed further down nor paid for. λ = 0 is
    the ELBO. With several processes the average is over each process's part of the batch.

    Args:
        free_nats: λ in nats per latent unit, or a schedule.
        num_samples: Draws of z per image.

    Attributes:
        units_in_use: 1 for the latent units that are paid for, 0 for those that only pad a model to the size of
            another, `[latent_dim]`; None where all are.

    Raises:
        ValueError: if λ is negative or there is no draw.
    """

    def __init__(self, free_nats: float | Schedule, num_samples: int = 1) -> None:
        self.free_nats = as_scalar("loss.free_nats", free_nats, minimum=0)
        self.num_samples = check_int("loss.num_samples", num_samples)
        self.units_in_use: Tensor | None = None

    def __call__(self, vae: VAE, batch: Batch, generator: torch.Generator) -> LossTerms:
        """A batch of images → terms of shape `[batch]`, in nats."""
        samples = sample_posterior(vae, batch, generator, draws(self.num_samples))
        per_dimension = kl_per_dimension(samples.posterior, samples.prior, samples.latents)
        charged = per_dimension.mean(dim=0).clamp(min=value_of(self.free_nats))
        charged = (charged if self.units_in_use is None else charged * self.units_in_use).sum()
        distortion = samples.distortion
        return LossTerms(loss=distortion + charged, distortion=distortion, rate=per_dimension.sum(dim=-1))
