"""The negative log-likelihood by importance sampling."""

import logging
from collections.abc import Iterator
from math import prod, sqrt

import torch

from vae_exp.argument_checks import check_int, check_optional_int
from vae_exp.data.images import ImageSet
from vae_exp.evaluation.requirements import BitsPerDim, require_density, scored_images
from vae_exp.model.vae import VAE
from vae_exp.objective.importance_weighted import LogEvidence, log_evidence

_log = logging.getLogger(__name__)
_LOW_ESS = 10  # effective samples of an image
_MAX_LOW_ESS_SHARE = 0.05  # share of the images
_CACHE_BYTES = 3 * 2**20  # of decoder outputs, which stay in a CPU core's cache
_SHARE_OF_MEMORY = 0.125
_MAX_CHUNK_ON_GPU = 20_000
_COPIES = 6  # of the decoder's outputs that exist at once


class NLLEvaluator:
    """−log p(x) estimated with importance samples from q(z|x) (Burda, Grosse & Salakhutdinov 2016, section 5.1).

    Yields `nll` in nats per image; `nll_se`, the standard error of that mean over images;
    `nll_monte_carlo_se`, the part of it that is due to drawing z (jackknife, as in `LogEvidence`);
    `nll_effective_samples` and `nll_largest_weight`, the effective sample size of an image and its largest
    normalised weight, averaged over images; and `nll_low_ess_share`, the share of the images with fewer than 10
    effective samples, with a warning above 5 %. The estimate is a lower bound on log p(x) in expectation, so `nll`
    is too high, less so with more samples; no standard error includes that bias. Where the likelihood is a
    probability of these images, `bits_per_dim` is the same in bits per pixel and channel.

    Args:
        num_importance_samples: Draws of z per image.
        num_images: How many images of the split, a random subset (`scored_images`); None for all.
        chunk_size: The most latents decoded at once, which bounds the memory; None takes what suits the device.
        every_n_epochs: Interval during training; None runs it once, at the end.
        bits: Whether bits per dimension are given: `auto` where the model has them; True refuses models without.

    Raises:
        ValueError: if a count is below one.
    """

    def __init__(
        self,
        num_importance_samples: int,
        num_images: int | None,
        chunk_size: int | None,
        every_n_epochs: int | None,
        bits: str | bool = "auto",
    ) -> None:
        self.every_n_epochs = check_optional_int("every_n_epochs", every_n_epochs)
        self._num_importance_samples = check_int("num_importance_samples", num_importance_samples)
        self._num_images = check_optional_int("num_images", num_images)
        self._chunk_size = check_optional_int("chunk_size", chunk_size)
        self._bits = BitsPerDim("evaluator.nll.bits", bits)

    def check(self, vae: VAE, images: ImageSet) -> None:
        """Refuse models without a density of latents, and `bits=True` where there are none."""
        require_density("nll", vae, images)
        self._bits.check(vae, images)

    @torch.no_grad()
    def run(self, vae: VAE, images: ImageSet, generator: torch.Generator) -> Iterator[tuple[str, float]]:
        """Yield names and values."""
        images = scored_images("nll", images, self._num_images)
        estimates = list(evidence_by_batch(vae, images, self._num_importance_samples, self._chunk_size, generator))
        values = torch.cat([estimate.value for estimate in estimates])
        variance = torch.cat([estimate.variance for estimate in estimates])
        count = len(values)
        nll = -values.mean().item()
        yield "nll", nll
        if (bits := self._bits.compute(nll, vae, images)) is not None:
            yield "bits_per_dim", bits
        yield "nll_se", values.std().item() / sqrt(count) if count > 1 else float("nan")
        yield "nll_monte_carlo_se", variance.sum().sqrt().item() / count
        effective = torch.cat([estimate.effective_samples for estimate in estimates])
        low_share = (effective < _LOW_ESS).double().mean().item()
        if low_share > _MAX_LOW_ESS_SHARE:
            _log.warning(
                "evaluator.nll: %.0f %% of the images have fewer than %d effective samples, so nll is too high by "
                "an unknown amount; raise evaluator.nll.num_importance_samples (now %d).",
                100 * low_share,
                _LOW_ESS,
                self._num_importance_samples,
            )
        yield "nll_effective_samples", effective.mean().item()
        yield "nll_low_ess_share", low_share
        yield "nll_largest_weight", torch.cat([estimate.largest_weight for estimate in estimates]).mean().item()
        yield "nll_images", count


def evidence_by_batch(
    vae: VAE, images: ImageSet, num_importance_samples: int, chunk_size: int | None, generator: torch.Generator
) -> Iterator[LogEvidence]:
    """Estimate log p(x) of all images in order, batch by batch.

    Args:
        vae: The model.
        images: The images.
        num_importance_samples: Draws of z per image.
        chunk_size: The most latents decoded at once; None takes what suits the device.
        generator: The source of the draws.
    """
    outputs = prod(images.image_shape) * outputs_per_value(vae)
    chunk_size = chunk_size or decode_chunk_size(outputs, images.device)
    for batch in images.batches(max(1, chunk_size // num_importance_samples)):
        yield log_evidence(vae, batch, num_importance_samples, generator, chunk_size)


def decode_chunk_size(values: int, device: torch.device) -> int:
    """How many latents to decode at once.

    On the CPU as many as keep the decoder's outputs in the cache; on a GPU as many as take an eighth of its
    memory, and at most 20,000, because the memory of the decoder's inner layers is unknown. Images that are
    decoded together share a draw, so that this number decides which noise an image gets: free memory must not.

    Args:
        values: Outputs of the decoder for an image.
        device: Where they are decoded.
    """
    if device.type != "cuda":
        return max(32, _CACHE_BYTES // (4 * values))
    memory = torch.cuda.get_device_properties(device).total_memory
    return max(32, min(_MAX_CHUNK_ON_GPU, int(_SHARE_OF_MEMORY * memory) // (4 * values * _COPIES)))


def outputs_per_value(vae: VAE) -> int:
    """How many numbers the decoder yields for a value of the image: 256 for a categorical over grey levels."""
    return int(getattr(getattr(vae.decoder, "likelihood", None), "parameters_per_value", 1))
