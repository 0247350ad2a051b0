"""The terms of a loss, and the protocol of losses."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from vae_exp.data.images import Batch
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
    """Scores a batch; the training step alone sums or averages.

    A loss that reads the labels of a batch has the attribute `needs_labels = True`.
    """

    def __call__(self, vae: VAE, batch: Batch, generator: torch.Generator) -> LossTerms:
        """A batch of images in [0, 1] → terms of shape `[batch]`, in nats."""
        ...


def needs_labels(vae: VAE, loss: Loss) -> bool:
    """Whether training steps need the labels of the images: the model or the loss says so."""
    return vae.needs_labels or getattr(loss, "needs_labels", False)
