"""The evidence lower bound."""

import torch

from vae_exp.argument_checks import check_int
from vae_exp.data.images import Batch
from vae_exp.model.vae import VAE
from vae_exp.objective.loss_terms import LossTerms
from vae_exp.objective.posterior_samples import draws, sample_posterior


class ELBO:
    """−ELBO = −E_q(z|x)[log p(x|z)] + KL(q(z|x) ‖ p(z)) (Kingma & Welling 2014, equation 7).

    The expectation is estimated by reparameterised draws; the KL is in closed form where torch has one.

    Args:
        num_samples: Draws of z per image (L in the paper).

    Raises:
        ValueError: if `num_samples` is below one.
    """

    def __init__(self, num_samples: int = 1) -> None:
        self.num_samples = check_int("loss.num_samples", num_samples)

    def __call__(self, vae: VAE, batch: Batch, generator: torch.Generator) -> LossTerms:
        """A batch of images → terms of shape `[batch]`, in nats."""
        samples = sample_posterior(vae, batch, generator, draws(self.num_samples))
        score, rate = samples.mean_log_likelihood, samples.rate
        return LossTerms(loss=rate - score, distortion=-score, rate=rate)
