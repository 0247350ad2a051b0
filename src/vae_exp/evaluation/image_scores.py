"""Codes and scores of single images, and how well a score detects odd ones."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor
from torch.distributions import Distribution

from vae_exp.data.images import ImageSet
from vae_exp.distributions.codebook import VectorQuantizedPosterior
from vae_exp.evaluation.image_grid import plot_image_grid
from vae_exp.evaluation.nll import evidence_by_batch
from vae_exp.model.vae import VAE
from vae_exp.objective.posterior_samples import sample_posterior

Array = npt.NDArray[Any]
_COLUMNS = 10


@torch.no_grad()
def encode_by_batch(
    vae: VAE, images: ImageSet, num_samples: int, batch_size: int, generator: torch.Generator
) -> Iterator[dict[str, Array]]:
    """Encode all images in order, and score each by draws from its posterior.

    The mean of `elbo` over the images is what `ELBOEvaluator` yields with the same arguments.

    Args:
        vae: The model, in evaluation mode.
        images: The images.
        num_samples: Draws of z per image.
        batch_size: Images at once.
        generator: The source of the draws.

    Yields:
        For each batch `mean` and `std` of q(z|x), `[batch, latent_dim]`, or for a codebook `code`, the index of
        the entry at each position; and `elbo`, `rate` and `distortion`, `[batch]`, in nats.
    """
    for batch in images.batches(batch_size):
        samples = sample_posterior(vae, batch, generator, (num_samples,))
        distortion, rate = samples.distortion, samples.rate
        scores = {"elbo": -(distortion + rate), "rate": rate, "distortion": distortion}
        yield {name: values.cpu().numpy() for name, values in (_code(samples.posterior) | scores).items()}


@torch.no_grad()
def nll_by_batch(
    vae: VAE, images: ImageSet, num_importance_samples: int, generator: torch.Generator
) -> Iterator[dict[str, Array]]:
    """Estimate −log p(x) of all images in order; the mean is what `NLLEvaluator` yields with the same arguments.

    Yields:
        For each batch `nll` and its Monte Carlo standard error `nll_se`, `[batch]`, in nats.
    """
    for estimate in evidence_by_batch(vae, images, num_importance_samples, None, generator):
        yield {"nll": -estimate.value.cpu().numpy(), "nll_se": estimate.variance.sqrt().cpu().numpy()}


def _code(posterior: Distribution) -> dict[str, Tensor]:
    if isinstance(posterior, VectorQuantizedPosterior):
        return {"code": posterior.indices.flatten(1)}
    return {"mean": posterior.mean, "std": posterior.stddev}


def quantiles(scores: Array, reference: Array) -> Array:
    """The share of reference scores that are at most as high as each score, `[N]`, from 0 to 1."""
    return np.searchsorted(np.sort(reference), scores, side="right") / len(reference)


class Detection(NamedTuple):
    """How well a score tells odd images from others.

    Args:
        auroc: Area under the ROC curve: the probability that an odd image scores higher than another.
        average_precision: Area under precision over recall, by steps.
    """

    auroc: float
    average_precision: float


def detection(scores: Array, is_odd: Array) -> Detection:
    """The detection of odd images by a score that is high for them.

    Args:
        scores: `[N]`.
        is_odd: `[N]`, bool; some are, and some are not.
    """
    return Detection(float(roc_auc_score(is_odd, scores)), float(average_precision_score(is_odd, scores)))


@torch.no_grad()
def draw_extremes(vae: VAE, images: ImageSet, surprise: Array, score: str) -> Image.Image:
    """Draw the most and the least likely images, each above its reconstruction from E[z|x].

    Args:
        vae: The model, in evaluation mode.
        images: The images.
        surprise: High for unlikely images, `[N]`.
        score: The name of the score, for the title.
    """
    order = np.argsort(surprise, kind="stable")
    count = max(1, min(_COLUMNS, len(order) // 2))
    rows = []
    for positions in (order[:count], order[-count:][::-1].copy()):
        batch = images.batch(torch.from_numpy(positions).to(images.device))
        rows += [batch.images, vae.reconstruct(batch.images, batch.labels)]
    return plot_image_grid(
        torch.stack(rows).cpu().numpy(),
        f"Images by {score}",
        row_labels=["most likely", "reconstruction", "least likely", "reconstruction"],
    )
