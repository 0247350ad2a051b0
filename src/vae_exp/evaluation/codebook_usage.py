"""Use of the codebook of a VQ-VAE."""

import logging
from collections.abc import Iterator

import torch

from vae_exp.argument_checks import check_int, check_optional_int
from vae_exp.data.images import ImageSet
from vae_exp.distributions.codebook import VectorQuantizedPosterior
from vae_exp.model.vae import VAE

_log = logging.getLogger(__name__)


class CodesEvaluator:
    """Use of the codebook: `codebook_used`, how many entries occur at all, and `code_perplexity`.

    The perplexity is e to the entropy of the entries over all images and positions: the number of entries if all
    are used alike, 1 if one alone is. Yields nothing for a model without a codebook.

    Args:
        batch_size: Images at once.
        every_n_epochs: Interval during training; None runs it once, at the end.

    Raises:
        ValueError: if a count is below its minimum.
    """

    def __init__(self, batch_size: int, every_n_epochs: int | None) -> None:
        self.every_n_epochs = check_optional_int("every_n_epochs", every_n_epochs)
        self._batch_size = check_int("batch_size", batch_size)

    @torch.no_grad()
    def run(self, vae: VAE, images: ImageSet, generator: torch.Generator) -> Iterator[tuple[str, float]]:
        """Yield names and values."""
        counts = torch.zeros(0)
        for batch in images.batches(self._batch_size):
            posterior = vae.encode(batch.images, batch.labels)
            if not isinstance(posterior, VectorQuantizedPosterior):
                _log.warning("evaluator.codes: the model has no codebook; nothing is counted.")
                return
            batch_counts = (
                torch.bincount(posterior.indices.flatten(), minlength=len(posterior.codebook)).cpu().double()
            )
            counts = batch_counts if len(counts) == 0 else counts + batch_counts
        shares = counts[counts > 0] / counts.sum()
        yield "codebook_used", int((counts > 0).sum())
        yield "code_perplexity", (-(shares * shares.log()).sum()).exp().item()
