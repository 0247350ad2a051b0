"""Running evaluators: numbers on one side, figures on the other."""

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from vae_exp.data.images import ImageSet
from vae_exp.engine.determinism import generator
from vae_exp.engine.interruption import InterruptGuard
from vae_exp.engine.precision import computing_in
from vae_exp.engine.protocols import Evaluator, Tracker
from vae_exp.model.vae import VAE
from vae_exp.run_directory import write_atomically

_QUICK = {"compress_level": 1}


class Evaluations:
    """The evaluators of a run, on the held-out images, or on the training images where none are held out.

    Args:
        evaluators: By name; each has its own cadence.
        vae: The model.
        train: The training images.
        val: The held-out images; may be empty.
        seed: The noise of every evaluator follows from it.
        figures: The folder that figures go to.
        trackers: Told of every figure.
    """

    def __init__(
        self,
        evaluators: Mapping[str, Evaluator],
        vae: VAE,
        *,
        train: ImageSet,
        val: ImageSet,
        seed: int,
        figures: Path,
        trackers: Sequence[Tracker],
    ) -> None:
        self._evaluators = evaluators
        self._vae = vae
        self._train, self._val = train, val
        self._seed = seed
        self._figures = figures
        self._trackers = trackers

    def due(self, epoch: int) -> list[str]:
        """Those whose turn it is after this epoch."""
        return [name for name, each in self._evaluators.items() if each.every and epoch % each.every == 0]

    def waiting(self) -> list[str]:
        """Those that run once, after the last epoch."""
        return [name for name, each in self._evaluators.items() if each.every == 0]

    def run(self, names: Sequence[str], step: int, guard: InterruptGuard) -> dict[str, float]:
        """Run these; their numbers by split and name, their figures to the folder and the trackers.

        Raises:
            Interrupted: on Ctrl-C or SIGTERM, before the next evaluator.
        """
        split = "val" if len(self._val) else "train"
        metrics: dict[str, float] = {}
        for name in names:
            guard.check()
            numbers, figures = run_evaluator(self._evaluators[name], self._vae, self._images, self._seed)
            metrics |= {f"{split}/{key}": value for key, value in numbers.items()}
            if figures:
                paths = save_figures(figures, self._figures)
                for tracker in self._trackers:
                    tracker.log_figures(paths, step)
        guard.check()
        return metrics

    @cached_property
    def _images(self) -> ImageSet:
        return self._val if len(self._val) else self._train.settled()


@torch.no_grad()
def run_evaluator(
    evaluator: Evaluator, vae: VAE, images: ImageSet, seed: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """What an evaluator yields, with noise that follows from the seed alone.

    Returns:
        Numbers by name, and matplotlib figures by name.
    """
    vae.eval()
    noise = generator(seed, "evaluation", images.device)
    numbers: dict[str, float] = {}
    figures: dict[str, Any] = {}
    with computing_in(vae, "fp32"):
        for name, value in evaluator.run(vae, images, noise):
            if hasattr(value, "savefig"):
                figures[name] = value
            else:
                numbers[name] = float(value)
    return numbers, figures


def save_figures(figures: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """Write figures as PNG files, each whole or not at all; the files by name."""
    paths = {name: folder / f"{name}.png" for name in figures}
    for name, figure in figures.items():
        write_atomically(paths[name], partial(figure.savefig, format="png", pil_kwargs=_QUICK))
        figure.clear()  # a figure and its parts refer to one another: without this a sweep grows
    return paths
