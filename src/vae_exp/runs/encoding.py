"""Codes and scores of images by a trained run, as columns of a table."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from vae_exp.data.images import ImageSet
from vae_exp.engine.device import matmul_precision
from vae_exp.engine.progress import EvaluationProgress
from vae_exp.engine.seeding import make_generator
from vae_exp.evaluation.image_scores import Array, encode_by_batch, nll_by_batch, quantiles
from vae_exp.runs.trained_run import TrainedRun
from vae_exp.storage.column_files import ColumnFiles

SCORES = ("elbo", "nll")


@dataclass(frozen=True)
class ImageScorer:
    """Encodes and scores images, each pass with the noise that `evaluate` has for the same seed.

    Args:
        run: The run.
        num_samples: Draws of z per image for `elbo`, `rate` and `distortion`.
        num_importance_samples: Draws of z per image for `nll`; None computes none.
        batch_size: Images at once.
        seed: Of the draws.
    """

    run: TrainedRun
    num_samples: int
    num_importance_samples: int | None
    batch_size: int
    seed: int

    def write(self, images: ImageSet, columns: ColumnFiles) -> None:
        """Add all columns: positions, labels, classes, codes and scores."""
        labels = {} if images.labels is None else {"label": images.labels.cpu().numpy()}
        names = {} if images.names is None else {"file": np.array(images.names)}
        classes = {"class": np.array(images.classes)[labels["label"]]} if images.classes and labels else {}
        columns.append({"index": np.arange(len(images)), **names, **labels, **classes})
        for score in ("elbo", "nll") if self.num_importance_samples else ("elbo",):
            for part in self._pass(score, images):
                columns.append(part)

    def rank(self, score: str, columns: ColumnFiles, reference: ImageSet | None) -> Array:
        """The positions of the images, the least likely first.

        Args:
            score: `elbo` or `nll`.
            columns: What `write` filled. They get `<score>_quantile`: the share of the reference images that are
                at least as likely.
            reference: Images of the kind that the run was trained on; None adds no quantiles.
        """
        surprise = surprise_of(score, columns.read(score))
        if reference is not None:
            scores = np.concatenate([part[score] for part in self._pass(score, reference)])
            columns.append({f"{score}_quantile": quantiles(surprise, surprise_of(score, scores))})
        return np.argsort(-surprise, kind="stable")

    def _pass(self, score: str, images: ImageSet) -> Iterator[dict[str, Array]]:
        generator = make_generator(self.seed, "evaluation", self.run.device)
        remedy = "a smaller num_importance_samples takes less" if score == "nll" else ""
        with EvaluationProgress(score, remedy) as progress, matmul_precision(self.run.vae, "fp32"):
            watched = replace(images, on_progress=progress)
            yield from self._parts(score, watched, generator)

    def _parts(self, score: str, images: ImageSet, generator: torch.Generator) -> Iterator[dict[str, Array]]:
        if score == "nll" and self.num_importance_samples:
            return nll_by_batch(self.run.vae, images, self.num_importance_samples, generator)
        return encode_by_batch(self.run.vae, images, self.num_samples, self.batch_size, generator)


def surprise_of(score: str, values: Array) -> Array:
    """A score that is high for unlikely images: `nll`, or −`elbo`, `[N]`, in nats."""
    return values if score == "nll" else -values
