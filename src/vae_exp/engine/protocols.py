"""Interfaces of evaluators, pruners and trackers."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from vae_exp.data.images import ImageSet
from vae_exp.model.vae import VAE


class Evaluator(Protocol):
    """Scores or draws a model; the same object serves training and the `evaluate` command.

    `every_n_epochs` is its interval during training; None means once, after the last epoch.
    """

    every_n_epochs: int | None

    def run(self, vae: VAE, images: ImageSet, generator: torch.Generator) -> Iterator[tuple[str, Any]]:
        """Yield names without the split, and values: what `float` takes, lists of it, or matplotlib figures."""
        ...


class Pruner(Protocol):
    """Decides after every epoch whether to end a run."""

    def stop(self, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Whether to end the run.

        Args:
            epoch: The number of trained epochs.
            metrics: The metrics of the last one.
        """
        ...


class Tracker(Protocol):
    """Logs the metrics of a run; its failure must never end the run."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log the metrics of an epoch, under keys such as `val/elbo`."""
        ...

    def log_figures(self, figures: Mapping[str, Path], step: int) -> None:
        """Log figures, given as PNG files by name."""
        ...

    def warn(self, title: str, text: str) -> None:
        """Log a warning about the run."""
        ...

    def log_lists(self, lists: Mapping[str, Sequence[float]], step: int) -> None:
        """Log numbers that belong together, such as the rate of each latent unit."""
        ...
