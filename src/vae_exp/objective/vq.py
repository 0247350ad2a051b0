"""The objective of the VQ-VAE."""

import torch
from torch import Tensor

from vae_exp.distributions.codes import NearestCodes
from vae_exp.model.vae import VAE
from vae_exp.objective.draws import draw
from vae_exp.objective.loss_terms import LossTerms
from vae_exp.objective.schedules import Schedule, current, scalar


class VQ:
    """−log p(x|e) + ‖sg[z] − e‖² + β ‖z − sg[e]‖² (van den Oord, Vinyals & Kavukcuoglu 2017, equation 3).

    z are the encoder's outputs, e the nearest entries of the codebook, sg[·] passes no gradient; the squares are
    summed over positions and numbers. The rate is a constant, positions · log K, and no part of the loss.

    Args:
        commitment: β; a number of at least 0, or a schedule.

    Raises:
        ValueError: if β is negative.
    """

    def __init__(self, commitment: float | Schedule = 0.25) -> None:
        self.commitment = scalar("loss.commitment", commitment, least=0)

    def __call__(self, vae: VAE, images: Tensor, generator: torch.Generator) -> LossTerms:
        """Images `[batch, *image_shape]` → terms of shape `[batch]`, in nats.

        Raises:
            TypeError: if the posterior has no codebook.
        """
        drawn = draw(vae, images, generator, (1,))
        codes = drawn.posterior
        if not isinstance(codes, NearestCodes):
            raise TypeError(f"loss=vq needs the codes of model=vq, not a posterior of type {type(codes).__name__}")
        to_codebook = (codes.outputs.detach() - codes.entries).square().flatten(1).sum(dim=1)
        to_encoder = (codes.outputs - codes.entries.detach()).square().flatten(1).sum(dim=1)
        distortion = drawn.distortion
        loss = distortion + to_codebook + current(self.commitment) * to_encoder
        return LossTerms(loss=loss, distortion=distortion, rate=drawn.rate)
