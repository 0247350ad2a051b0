"""Interfaces of evaluators, pruners, trackers and modules that update themselves."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from vae_exp.data.images import ImageSet
from vae_exp.distributions.sampling import Shard
from vae_exp.model.vae import VAE


class Evaluator(Protocol):
    """Scores or draws a model; the same object serves training and the `evaluate` command.

    `every_n_epochs` is its interval during training; None means once, after the last epoch, on the best one.
    """

    every_n_epochs: int | None

    def run(self, vae: VAE, images: ImageSet, generator: torch.Generator) -> Iterator[tuple[str, Any]]:
        """Yield names without the split, and values: what `float` takes, lists of it, or figures."""
        ...


@runtime_checkable
class UpdatedAfterStep(Protocol):
    """A module that changes its own state after every training step, on the device alone."""

    def after_step(
        self, generator: torch.Generator, shard: Shard | None, all_reduce_sum: Callable[[Tensor], None]
    ) -> None:
        """Change the state by what the module has kept of the step.

        Args:
            generator: The source of the noise, in the same state in all processes.
            shard: Which images of the whole batch this process has; None for all.
            all_reduce_sum: Sums a tensor over all processes, in place.
        """
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
