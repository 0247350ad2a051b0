"""The evidence lower bound."""

import torch
from torch import Tensor

from vae_exp.distributions.divergence import rate
from vae_exp.distributions.sampling import rsample
from vae_exp.model.vae import VAE
from vae_exp.objective.loss_terms import LossTerms


class ELBO:
    """−ELBO = −E_q(z|x)[log p(x|z)] + KL(q(z|x) ‖ p(z)) (Kingma & Welling 2014, equation 7).

    The expectation is estimated by reparameterised draws; the KL is in closed form where torch has one.

    Args:
        num_samples: Draws of z per image (L in the paper).

    Raises:
        ValueError: if `num_samples` is below one.
    """

    def __init__(self, num_samples: int = 1) -> None:
        if not isinstance(num_samples, int) or num_samples < 1:
            raise ValueError(f"loss.num_samples={num_samples} must be a whole number of at least 1.")
        self.num_samples = num_samples

    def __call__(self, vae: VAE, images: Tensor, generator: torch.Generator) -> LossTerms:
        """Images `[batch, *image_shape]` → terms of shape `[batch]`, in nats."""
        posterior = vae.encode(images)
        latents = rsample(posterior, generator, (self.num_samples,))
        log_likelihood = vae.decode(latents).log_prob(images)
        distortion = -(log_likelihood[0] if self.num_samples == 1 else log_likelihood.mean(dim=0))
        kl = rate(posterior, vae.prior(), latents)
        return LossTerms(loss=distortion + kl, distortion=distortion, rate=kl)
