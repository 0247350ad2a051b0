"""Accuracy of simple classifiers on the posterior means."""

import logging
from collections.abc import Iterator

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vae_exp.argument_checks import check_int, check_optional_int
from vae_exp.data.images import ImageSet
from vae_exp.errors import UserError
from vae_exp.evaluation.requirements import require_images, scored_images
from vae_exp.model.conditional import ConditionalVAE
from vae_exp.model.vae import VAE

_log = logging.getLogger(__name__)
_MIN_IMAGES = 4  # two to fit on, two to score


class ProbeEvaluator:
    """Accuracy of a linear classifier and of k nearest neighbours on the posterior means E[z|x].

    The images are split in two by the seed: one half trains the classifiers, the other is scored. Yields
    `probe_accuracy` (logistic regression on standardised means) and `knn_accuracy`, from 0 to 1; nothing where the
    data have no labels.

    Args:
        num_neighbors: k.
        num_images: How many images of the split, a random subset (`scored_images`); None for all.
        batch_size: Images at once.
        every_n_epochs: Interval during training; None runs it once, at the end.

    Raises:
        ValueError: if a count is below its minimum.
    """

    def __init__(
        self, num_neighbors: int, num_images: int | None, batch_size: int, every_n_epochs: int | None
    ) -> None:
        self.every_n_epochs = check_optional_int("every_n_epochs", every_n_epochs)
        self._num_neighbors = check_int("num_neighbors", num_neighbors)
        self._num_images = check_optional_int("num_images", num_images, _MIN_IMAGES)
        self._batch_size = check_int("batch_size", batch_size)

    def check(self, vae: VAE, images: ImageSet) -> None:
        """Refuse too few images to fit on, to score, or to have k neighbours."""
        if images.labels is None or isinstance(vae, ConditionalVAE):
            return
        require_images("probe", images, self._num_images, _MIN_IMAGES)
        count = min(len(images), self._num_images or len(images))
        if self._num_neighbors > count // 2:
            raise UserError(
                f"evaluator.probe.num_neighbors={self._num_neighbors} must be at most {count // 2}: the probe is "
                f"fitted on half of its {count} images."
            )

    @torch.no_grad()
    def run(self, vae: VAE, images: ImageSet, generator: torch.Generator) -> Iterator[tuple[str, float]]:
        """Yield names and values."""
        images = scored_images("probe", images, self._num_images)
        if isinstance(vae, ConditionalVAE):
            _log.warning("evaluator.probe: a class-conditional model receives the class; nothing is measured.")
            return
        if images.labels is None:
            _log.warning("evaluator.probe: the images have no labels; nothing is probed.")
            return
        means = (
            torch.cat([vae.encode(batch.images, batch.labels).mean for batch in images.batches(self._batch_size)])
            .cpu()
            .double()
        )
        order = torch.randperm(len(images), generator=generator, device=generator.device).cpu()
        train, test = order[: len(order) // 2], order[len(order) // 2 :]
        codes, labels = means.numpy(), images.labels.cpu().numpy()
        if len(set(labels[train].tolist())) < 2:
            _log.warning("evaluator.probe: the images have a single label; nothing is probed.")
            return
        linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        nearest = KNeighborsClassifier(self._num_neighbors)
        for name, classifier in (("probe_accuracy", linear), ("knn_accuracy", nearest)):
            classifier.fit(codes[train], labels[train])
            yield name, float(classifier.score(codes[test], labels[test]))
