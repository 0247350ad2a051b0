"""One pass of images through a VAE, which every objective starts from."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from vae_exp.data.images import Batch
from vae_exp.distributions.codebook import VectorQuantizedPosterior
from vae_exp.distributions.gaussian import DiagonalGaussian, StandardNormal, draw_with_rate
from vae_exp.distributions.kl import kl
from vae_exp.distributions.sampling import rsample, standard_normal
from vae_exp.model.vae import VAE


@dataclass(frozen=True)
class PosteriorSamples:
    """Latents drawn from the posterior of each image, and how well they explain it.

    Args:
        posterior: q(z|x) over `[batch, latent_dim]`.
        prior: p(z) over `[latent_dim]`.
        latents: z ~ q(z|x), `[*shape, batch, latent_dim]`, reparameterised.
        log_likelihood: log p(x|z), `[*shape, batch]`, in nats.
        drawn_rate: KL(q(z|x) ‖ p(z)), `[batch]`, in nats, where the draw has come with it.
    """

    posterior: Distribution
    prior: Distribution
    latents: Tensor
    log_likelihood: Tensor
    drawn_rate: Tensor | None = None

    @property
    def mean_log_likelihood(self) -> Tensor:
        """E_q log p(x|z) by these draws, `[batch]`, in nats."""
        scores = self.log_likelihood
        return scores if scores.dim() == 1 else scores.flatten(0, -2).mean(dim=0)

    @property
    def distortion(self) -> Tensor:
        """−E_q log p(x|z) by these draws, `[batch]`, in nats."""
        return -self.mean_log_likelihood

    @property
    def rate(self) -> Tensor:
        """KL(q(z|x) ‖ p(z)), `[batch]`, in nats; in closed form where there is one."""
        return kl(self.posterior, self.prior, self.latents) if self.drawn_rate is None else self.drawn_rate

    def log_weights(self, posterior: Distribution | None = None) -> Tensor:
        """The importance weights log p(x, z) − log q(z|x), `[*shape, batch]`, in nats.

        Args:
            posterior: Used in place of q in the density, such as one whose parameters are held fixed.
        """
        log_joint = self.log_likelihood + self.prior.log_prob(self.latents)
        return log_joint - (posterior or self.posterior).log_prob(self.latents)


def sample_posterior(vae: VAE, batch: Batch, generator: torch.Generator, shape: Sequence[int]) -> PosteriorSamples:
    """Encode images, draw latents and decode them.

    Args:
        vae: The model.
        batch: Images in [0, 1], with the labels that a class-conditional model needs.
        generator: The source of the noise.
        shape: How many draws per image, in one or several axes; empty for one draw.
    """
    posterior, prior = vae.encode(batch.images, batch.labels), vae.prior()
    rate = None
    if not shape and isinstance(posterior, DiagonalGaussian) and isinstance(prior, StandardNormal):
        latents, rate = draw_with_rate(posterior, standard_normal(posterior.mean, generator))
    else:
        latents = rsample(posterior, generator, shape)
    log_likelihood = vae.decode(latents, batch.labels).log_prob(batch.images)
    return PosteriorSamples(posterior, prior, latents, log_likelihood, rate)


def draws(num_samples: int) -> tuple[int, ...]:
    """The leading shape of so many draws: none for one, which saves operations."""
    return () if num_samples == 1 else (num_samples,)


def refuse_codes(posterior: Distribution, terms: str) -> None:
    """Refuse codes of a codebook, whose rate is one constant and whose means have no gradient of their own.

    Args:
        posterior: q(z|x).
        terms: What a loss weighs in vain.

    Raises:
        TypeError: if the latents are codes.
    """
    if isinstance(posterior, VectorQuantizedPosterior):
        raise TypeError(f"{terms} of codes does not train; use loss=vq with model=vq, loss=elbo with model=fsq")
