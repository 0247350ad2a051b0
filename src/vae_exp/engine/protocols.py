"""What the engine asks of evaluators and trackers, without knowing any of them."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from vae_exp.data.images import ImageSet
from vae_exp.model.vae import VAE


class Evaluator(Protocol):
    """Scores or draws a model; the same object serves training and the `evaluate` command.

    `every` is its cadence in epochs during training; 0 means once, after the last epoch.
    """

    every: int

    def run(self, vae: VAE, images: ImageSet, generator: torch.Generator) -> Iterator[tuple[str, Any]]:
        """Yield names without the split, and values: what `float` takes, lists of it, or matplotlib figures."""
        ...


class Pruner(Protocol):
    """Decides after every epoch whether a run is worth going on."""

    def stop(self, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Whether it ends here.

        Args:
            epoch: How many epochs have been trained.
            metrics: Those of the last one.
        """
        ...


class Tracker(Protocol):
    """Keeps what a run reports; losing it must never lose the run."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Keep the metrics of an epoch, under keys such as `val/elbo`."""
        ...

    def log_figures(self, figures: Mapping[str, Path], step: int) -> None:
        """Keep figures, given as PNG files by name."""
        ...

    def warn(self, title: str, text: str) -> None:
        """Keep a warning about the run."""
        ...

    def log_lists(self, lists: Mapping[str, Sequence[float]], step: int) -> None:
        """Keep numbers that belong together, such as the rate of each latent unit."""
        ...
