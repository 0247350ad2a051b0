"""The objective of the VQ-VAE."""

import torch
from torch import Tensor, nn

from vae_exp.argument_checks import check_choice
from vae_exp.data.images import Batch
from vae_exp.distributions.codebook import FiniteScalarPosterior, VectorQuantizedPosterior
from vae_exp.model.vae import VAE
from vae_exp.objective.loss_terms import LossTerms
from vae_exp.objective.posterior_samples import sample_posterior
from vae_exp.objective.schedules import Schedule, as_scalar, value_of


class VQ:
    """−log p(x|e) + ‖sg[z] − e‖² + β ‖z − sg[e]‖² (van den Oord, Vinyals & Kavukcuoglu 2017, equation 3).

    z are the encoder's outputs, e the nearest entries of the codebook, sg[·] passes no gradient; ‖·‖² sums over
    the numbers of an entry. With N positions an image, both squares are averaged over them (section 3.2). The rate
    is a constant, N log K, and no part of the loss. The second term is left out where the entries are moving
    averages (appendix A.1).

    Args:
        commitment: β, or a schedule.
        position_reduction: `mean` as in the paper, or `sum`: then both squares weigh N times more.

    Raises:
        ValueError: if β is negative or there is no such reduction.
    """

    def __init__(self, commitment: float | Schedule = 0.25, *, position_reduction: str) -> None:
        self.commitment = as_scalar("loss.commitment", commitment, minimum=0)
        self.position_reduction = check_choice("loss.position_reduction", position_reduction, ("mean", "sum"))

    @property
    def monitor(self) -> str:
        """The term whose lowest value marks the best epoch.

        The averaged squares rise while the codebook follows the encoder and reconstructions still improve. With
        `sum` the loss itself, by which runs of earlier versions chose.
        """
        return "distortion" if self.position_reduction == "mean" else "loss"

    def __call__(self, vae: VAE, batch: Batch, generator: torch.Generator) -> LossTerms:
        """A batch of images → terms of shape `[batch]`, in nats.

        Raises:
            TypeError: if the posterior has no codebook, or one that is not learned.
        """
        samples = sample_posterior(vae, batch, generator, ())
        codes = samples.posterior
        if not isinstance(codes, VectorQuantizedPosterior):
            raise TypeError(f"loss=vq needs the codes of model=vq, not a posterior of type {type(codes).__name__}")
        if isinstance(codes, FiniteScalarPosterior):
            raise TypeError("loss=vq trains a codebook, and model=fsq has none to train; use loss=elbo")
        loss = distortion = samples.distortion
        if isinstance(codes.codebook, nn.Parameter):
            loss = loss + self._reduce((codes.outputs.detach() - codes.entries).square())
        loss = loss + value_of(self.commitment) * self._reduce((codes.outputs - codes.entries.detach()).square())
        return LossTerms(loss=loss, distortion=distortion, rate=samples.rate)

    def _reduce(self, squares: Tensor) -> Tensor:
        """`[batch, positions, code_dim]` → `[batch]`."""
        total = squares.flatten(1).sum(dim=1)
        return total / squares.shape[1] if self.position_reduction == "mean" else total
