"""Published figures: what to train and to evaluate, and what counts as reproduced."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from omegaconf import OmegaConf

from vae_exp.errors import UserError

VERDICTS = ("within", "outside", "measured")


@dataclass(frozen=True)
class ReproductionTarget:
    """A figure to compare with, and how to reproduce it.

    Args:
        name: Its name on the command line.
        what: Model, data and metric in a few words.
        source: Where the figure was published, or what it is computed by.
        train: Overrides of the training run.
        evaluate: Overrides of the evaluation; empty takes the metric from training.
        metric: Name of the metric, with its split.
        expected: The reference; None judges nothing.
        tolerance: Largest difference from it that counts as reproduced.
        seeds: Number of runs, with seeds 0, 1, …; the mean is what is compared.
        below: The target whose metric this one must be below, seed by seed.
        checkpoint: Which checkpoint is evaluated, `last` or `best`.
    """

    name: str
    what: str
    source: str
    train: tuple[str, ...]
    evaluate: tuple[str, ...]
    metric: str
    expected: float | None = None
    tolerance: float | None = None
    seeds: int = 1
    below: str | None = None
    checkpoint: str = "last"

    @property
    def split(self) -> str:
        """The split of the metric."""
        return self.metric.partition("/")[0]

    @property
    def reference(self) -> str:
        """What the figure is compared with, and the tolerance, as a cell of the table."""
        if self.below is not None:
            return f"< `{self.below}`"
        return "–" if self.expected is None else f"{self.expected:g} ± {self.tolerance:g}"

    def verdict(self, values: Sequence[float], others: Sequence[float] = ()) -> str:
        """Compare with the reference.

        Args:
            values: The metric for each seed.
            others: The metric of the target `below` for each seed; empty while it has not been run.

        Returns:
            `within` or `outside`; `measured` where there is nothing to compare with.
        """
        if self.below is not None:
            if len(others) != len(values):
                return "measured"
            return "within" if all(a < b for a, b in zip(values, others, strict=True)) else "outside"
        if self.expected is None or self.tolerance is None:
            return "measured"
        return "within" if abs(fmean(values) - self.expected) <= self.tolerance else "outside"


def mean_text(values: Sequence[float]) -> str:
    """The mean, with its standard error where there are several values."""
    mean = f"{fmean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ± {stdev(values) / len(values) ** 0.5:.2f}"


def read_targets(path: Path) -> dict[str, ReproductionTarget]:
    """Return all targets of `conf/reproduce/targets.yaml`, by name."""
    plain: Any = OmegaConf.to_container(OmegaConf.load(path))
    return {
        name: ReproductionTarget(
            name=name, **{**entry, "train": tuple(entry["train"]), "evaluate": tuple(entry["evaluate"])}
        )
        for name, entry in plain.items()
    }


def select_targets(targets: Mapping[str, ReproductionTarget], names: Sequence[str]) -> list[ReproductionTarget]:
    """Return the targets of these names.

    Raises:
        UserError: names the first unknown name, and the known ones.
    """
    for name in names:
        if name not in targets:
            raise UserError(f"{name} is not a reproduction; known are {', '.join(targets)}.")
    return [targets[name] for name in names]
