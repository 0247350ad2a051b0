"""Free bits: a rate that costs nothing up to a point."""

import torch
from torch import Tensor

from vae_exp.distributions.kl import rate_per_unit
from vae_exp.model.vae import VAE
from vae_exp.objective.loss_terms import LossTerms
from vae_exp.objective.posterior_samples import check_num_samples, draw
from vae_exp.objective.schedules import Schedule, current, scalar


class FreeBits:
    """−E_q(z|x)[log p(x|z)] + Σⱼ max(λ, E_batch[KL(q(zⱼ|x) ‖ p(zⱼ))]) (Kingma et al. 2016, equation 15).

    A unit whose rate, averaged over the batch, is below λ is neither pushed further down nor paid for. λ = 0 is
    the ELBO. With several processes the average is over each process's part of the batch.

    Args:
        free_nats: λ in nats per latent unit; a number of at least 0, or a schedule.
        num_samples: Draws of z per image.

    Raises:
        ValueError: if λ is negative or there is no draw.
    """

    def __init__(self, free_nats: float | Schedule, num_samples: int = 1) -> None:
        self.free_nats = scalar("loss.free_nats", free_nats, least=0)
        self.num_samples = check_num_samples("num_samples", num_samples)

    def __call__(self, vae: VAE, images: Tensor, generator: torch.Generator) -> LossTerms:
        """Images `[batch, *image_shape]` → terms of shape `[batch]`, in nats."""
        drawn = draw(vae, images, generator, (self.num_samples,))
        per_unit = rate_per_unit(drawn.posterior, drawn.prior, drawn.latents)
        charged = per_unit.mean(dim=0).clamp(min=current(self.free_nats)).sum()
        distortion = drawn.distortion
        return LossTerms(loss=distortion + charged, distortion=distortion, rate=per_unit.sum(dim=-1))
