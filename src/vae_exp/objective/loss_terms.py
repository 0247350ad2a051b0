"""What every loss returns."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from vae_exp.model.vae import VAE


@dataclass(frozen=True)
class LossTerms:
    """The terms of a loss for each example of a batch, in nats, unreduced.

    Args:
        loss: What is minimised, `[batch]`.
        distortion: −E_q log p(x|z), `[batch]`.
        rate: KL(q(z|x) ‖ p(z)), `[batch]`.
    """

    loss: Tensor
    distortion: Tensor
    rate: Tensor


class Loss(Protocol):
    """Scores a batch; the training step alone sums or averages."""

    def __call__(self, vae: VAE, images: Tensor, generator: torch.Generator) -> LossTerms:
        """Images `[batch, *image_shape]` in [0, 1] → terms of shape `[batch]`, in nats."""
        ...
