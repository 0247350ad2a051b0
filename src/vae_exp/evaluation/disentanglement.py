"""How well single latent units correspond to single factors of the data: MIG, SAP and DCI."""

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import mutual_info_score
from sklearn.svm import LinearSVC

from vae_exp.argument_checks import check_int, check_optional_int
from vae_exp.data.images import ImageSet
from vae_exp.errors import UserError
from vae_exp.evaluation.requirements import require_images, scored_images
from vae_exp.model.conditional import ConditionalVAE
from vae_exp.model.vae import VAE

_log = logging.getLogger(__name__)
_BINS = 20
_MIN_IMAGES = 4  # two to fit on, two to score
_SVC_C = 0.01
_TREES = 50
_DEPTH = 8
Array = npt.NDArray[Any]


class DisentanglementEvaluator:
    """MIG (Chen et al. 2018), SAP (Kumar et al. 2018) and DCI (Eastwood & Williams 2018) on posterior means.

    On the codes E[z|x]. For MIG they are cut into 20 bins of equal width, and for SAP a linear support vector
    machine (C = 0.01) predicts a factor from a single unit, both as Locatello et al. 2019 do; for DCI random
    forests, as in Eastwood & Williams, predict a factor from all units, and the splits give the
    importance. Yields `mig`, `sap`, `dci_disentanglement`, `dci_completeness` and `dci_informativeness` (the
    mean accuracy), each from 0 to 1. One half of the images trains what is fitted, the other is scored. Data
    without factors are refused; nothing is yielded for a class-conditional model.

    Args:
        num_images: How many images of the split, a random subset (`scored_images`); None for all.
        batch_size: Images at once.
        every_n_epochs: Interval during training; None runs it once, at the end.

    Raises:
        ValueError: if a count is below its minimum.
    """

    def __init__(self, num_images: int | None, batch_size: int, every_n_epochs: int | None) -> None:
        self.every_n_epochs = check_optional_int("every_n_epochs", every_n_epochs)
        self._num_images = check_optional_int("num_images", num_images, _MIN_IMAGES)
        self._batch_size = check_int("batch_size", batch_size)

    def check(self, vae: VAE, images: ImageSet) -> None:
        """Refuse data without factors."""
        if images.factors is None:
            raise UserError(
                "evaluator=disentanglement needs factors, and the data have none; leave it out, or use data that "
                "have them, such as data=dsprites."
            )
        require_images("disentanglement", images, self._num_images, _MIN_IMAGES)

    @torch.no_grad()
    def run(self, vae: VAE, images: ImageSet, generator: torch.Generator) -> Iterator[tuple[str, float]]:
        """Yield names and values."""
        images = scored_images("disentanglement", images, self._num_images)
        if isinstance(vae, ConditionalVAE):
            _log.warning(
                "evaluator.disentanglement: a class-conditional model receives the class; nothing is measured."
            )
            return
        assert images.factors is not None  # `check` has refused
        means = [vae.encode(batch.images, batch.labels).mean for batch in images.batches(self._batch_size)]
        codes = torch.cat(means).cpu().double().numpy()
        factors = images.factors.cpu().numpy()
        varies = np.array([len(np.unique(column)) > 1 for column in factors.T])
        if not varies.any():
            _log.warning("evaluator.disentanglement: every factor has a single value; nothing is measured.")
            return
        if not varies.all():
            _log.warning(
                "evaluator.disentanglement: factors %s have a single value in the %d images scored and are left "
                "out.",
                ", ".join(map(str, np.flatnonzero(~varies))),
                len(factors),
            )
        factors = factors[:, varies]
        order = torch.randperm(len(codes), generator=generator, device=generator.device).cpu().numpy()
        train, test = order[: len(order) // 2], order[len(order) // 2 :]
        yield "mig", mutual_information_gap(codes, factors)
        yield "sap", separated_attribute_predictability(codes, factors, train, test)
        importance, accuracy = _forests(codes, factors, train, test)
        yield "dci_disentanglement", disentanglement(importance)
        yield "dci_completeness", completeness(importance)
        yield "dci_informativeness", accuracy


def mutual_information_gap(codes: Array, factors: Array) -> float:
    """The mean over factors v of (I(z₁; v) − I(z₂; v)) / H(v), z₁, z₂ the most informative (Chen et al. 2018).

    Args:
        codes: `[N, units]`; beside a single unit a second has zero information.
        factors: `[N, factors]`, integers.
    """
    binned = np.stack([_bin(codes[:, unit]) for unit in range(codes.shape[1])], axis=1)
    gaps = []
    for factor in factors.T:
        information = sorted((mutual_info_score(factor, unit) for unit in binned.T), reverse=True)
        second = information[1] if len(information) > 1 else 0.0
        gaps.append((information[0] - second) / mutual_info_score(factor, factor))
    return float(np.mean(gaps))


def separated_attribute_predictability(codes: Array, factors: Array, train: Array, test: Array) -> float:
    """The mean over factors of the gap in accuracy between the two units that predict it best (Kumar et al. 2018).

    Args:
        codes: `[N, units]`; beside a single unit a second has zero accuracy.
        factors: `[N, factors]`, integers.
        train: Positions that the predictors are fitted on.
        test: Positions that are scored.
    """
    gaps = []
    for factor in factors.T:
        scores = sorted((_score_of_unit(unit, factor, train, test) for unit in codes.T), reverse=True)
        gaps.append(scores[0] - (scores[1] if len(scores) > 1 else 0.0))
    return float(np.mean(gaps))


def disentanglement(importance: Array) -> float:
    """Σⱼ ρⱼ (1 − H(Pⱼ)), Pⱼ the shares of the factors that unit j is important for, ρⱼ its own share.

    Args:
        importance: `[units, factors]`, none negative (Eastwood & Williams 2018, section 2).
    """
    rows = importance.sum(axis=1)
    if rows.sum() == 0:
        return 0.0
    scores = np.array([_one_minus_entropy(row) for row in importance])
    return float((rows / rows.sum() * scores).sum())


def completeness(importance: Array) -> float:
    """The same with units and factors exchanged: by how few units a factor is described.

    Args:
        importance: `[units, factors]`, none negative (Eastwood & Williams 2018, section 2).
    """
    return disentanglement(importance.T)


def _bin(values: Array) -> Array:
    edges = np.histogram_bin_edges(values, _BINS)
    return np.digitize(values, edges[1:-1])


def _score_of_unit(unit: Array, factor: Array, train: Array, test: Array) -> float:
    """The accuracy of a factor predicted from one unit; of the most frequent value if the unit does not move."""
    values, counts = np.unique(factor[train], return_counts=True)
    if unit[train].std() < 1e-12 or len(values) < 2:
        return float((factor[test] == values[counts.argmax()]).mean())
    machine = LinearSVC(C=_SVC_C, class_weight="balanced", max_iter=5000)
    machine.fit(unit[train, None], factor[train])
    return float(machine.score(unit[test, None], factor[test]))


def _forests(codes: Array, factors: Array, train: Array, test: Array) -> tuple[Array, float]:
    """Importances `[units, factors]`, and the mean accuracy.

    Every split considers all units: with a few it would have to split on uninformative ones. Entropy, because
    Gini's gain is the same for every cut through equally frequent values, which makes deep trees.
    """
    importance, scores = [], []
    for factor in factors.T:
        forest = RandomForestClassifier(
            _TREES, criterion="entropy", max_depth=_DEPTH, max_features=None, random_state=0
        )
        forest.fit(codes[train], factor[train])
        importance.append(forest.feature_importances_)
        scores.append(forest.score(codes[test], factor[test]))
    return np.stack(importance, axis=1), float(np.mean(scores))


def _one_minus_entropy(weights: Array) -> float:
    """1 − H(p) / log n for the shares p of n weights; 1 for a single one, 0 where all are zero."""
    if weights.sum() == 0:
        return 0.0
    if len(weights) == 1:
        return 1.0
    shares = weights[weights > 0] / weights.sum()
    return float(1 + (shares * np.log(shares)).sum() / np.log(len(weights)))
