"""The loop over the evaluators of a run; saving of their figures."""

import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property, partial
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from vae_exp.data.images import ImageSet
from vae_exp.engine.device import evaluator_oom_error, matmul_precision
from vae_exp.engine.progress import evaluator_progress
from vae_exp.engine.protocols import Evaluator, Tracker
from vae_exp.engine.seeding import make_generator
from vae_exp.engine.shutdown import GracefulShutdown
from vae_exp.errors import Interrupted, UserError
from vae_exp.model.vae import VAE
from vae_exp.storage.atomic_io import write_atomically
from vae_exp.storage.pictures import write_png

_log = logging.getLogger(__name__)


class EvaluatorLoop:
    """The evaluators of a run, on the held-out images, or on the training images where none are held out.

    Args:
        evaluators: By name; each has its own interval.
        vae: The model.
        train: The training images.
        val: The held-out images; may be empty.
        seed: Of the noise of every evaluator.
        figures: The folder that figures go to.
        trackers: Log every figure.
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
        self._warned: set[str] = set()

    def due_at_epoch(self, epoch: int) -> list[str]:
        """The names of those due after this epoch."""
        intervals = {name: evaluator.every_n_epochs for name, evaluator in self._evaluators.items()}
        return [name for name, interval in intervals.items() if interval and epoch % interval == 0]

    def due_at_end(self) -> list[str]:
        """The names of those that run once, after the last epoch."""
        return [name for name, evaluator in self._evaluators.items() if not evaluator.every_n_epochs]

    def run(
        self, names: Sequence[str], step: int, shutdown: GracefulShutdown, epoch: int, checkpoint: str = ""
    ) -> dict[str, float]:
        """Run these evaluators; log their figures and lists, and return their numbers as `split/name`.

        Args:
            names: The evaluators.
            step: The step at which figures and lists are logged.
            shutdown: Notes Ctrl-C and SIGTERM.
            epoch: Of the weights that the model has.
            checkpoint: The checkpoint that has them; the names of numbers and lists of `best` begin with `best/`.

        Raises:
            Interrupted: on Ctrl-C or SIGTERM, before the next evaluator.
            UserError: if one cannot be run.
        """
        images_of = "val" if len(self._val) else "train"
        split = f"best/{images_of}" if checkpoint == "best" else images_of
        metrics: dict[str, float] = {}
        for name in names:
            shutdown.raise_if_requested()
            evaluator = self._evaluators[name]
            if not evaluator.every_n_epochs:
                _log.info("Evaluating %s …", name)
            with nullcontext() if evaluator.every_n_epochs else evaluator_progress(name) as progress:
                images = replace(self._images, on_progress=progress)
                numbers, figures, lists = run_evaluator(name, evaluator, self._vae, images, self._seed)
            self._warned |= warn_non_finite_metrics(name, numbers, self._warned)
            metrics |= {f"{split}/{key}": value for key, value in numbers.items()}
            paths = save_figures(figures, self._figures, describe_source(images_of, epoch, checkpoint))
            for tracker in self._trackers:
                if paths:
                    tracker.log_figures(paths, step)
                if lists:
                    tracker.log_lists({f"{split}/{key}": value for key, value in lists.items()}, step)
        shutdown.raise_if_requested()
        return metrics

    @cached_property
    def _images(self) -> ImageSet:
        return self._val if len(self._val) else self._train.with_fixed_binarization()


class EvaluatorOutput(NamedTuple):
    """The output of an evaluator by name.

    Args:
        numbers: Metrics.
        figures: matplotlib figures and Pillow images.
        lists: Numbers that belong together, such as one for each latent unit; only trackers keep them.
    """

    numbers: dict[str, float]
    figures: dict[str, Any]
    lists: dict[str, list[float]]


@torch.no_grad()
def run_evaluator(name: str, evaluator: Evaluator, vae: VAE, images: ImageSet, seed: int) -> EvaluatorOutput:
    """Run an evaluator with noise that follows from the seed alone.

    Args:
        name: Its key in the group `evaluator`.
        evaluator: What is run.
        vae: The model.
        images: What it is run on.
        seed: Of the noise.

    Raises:
        UserError: if it fails, or yields something else than numbers, lists of them and figures.
        MemoryExhaustedError: if memory does not suffice for it.
    """
    vae.eval()
    noise = make_generator(seed, "evaluation", images.device)
    label = f"evaluator.{name} ({type(evaluator).__module__}.{type(evaluator).__qualname__})"
    output = EvaluatorOutput({}, {}, {})
    try:
        with matmul_precision(vae, "fp32"):
            for pair in evaluator.run(vae, images, noise):
                _add(output, label, pair)
    except (UserError, Interrupted):
        raise
    except Exception as error:  # of a user's own class, which may fail in any way
        out_of_memory = evaluator_oom_error(error, name, images.device)
        raise out_of_memory or UserError(f"{label} fails: {type(error).__name__}: {error}") from error
    return output


def warn_non_finite_metrics(name: str, numbers: Mapping[str, float], warned: Collection[str]) -> set[str]:
    """Warn of an evaluator's numbers that are not finite, once for each metric.

    Args:
        name: The evaluator's key.
        numbers: What it has yielded.
        warned: Metrics that were warned of before, each as `evaluator.metric`.

    Returns:
        The non-finite metrics of this call, each as `evaluator.metric`.
    """
    non_finite = {f"{name}.{key}": value for key, value in numbers.items() if not isfinite(value)}
    for metric, value in sorted(non_finite.items()):
        if metric not in warned:
            _log.warning("evaluator.%s is not finite: %s.", metric, value)
    return set(non_finite)


def describe_source(split: str, epoch: int, checkpoint: str = "") -> str:
    """What a figure shows, for its foot: of which images, and by the weights of which epoch and checkpoint."""
    return f"{split} images, epoch {epoch}{f' ({checkpoint})' if checkpoint else ''}"


def save_figures(figures: Mapping[str, Any], folder: Path, source: str) -> dict[str, Path]:
    """Write figures as PNG files, each whole or not at all; the files by name.

    Args:
        figures: By name; each a Pillow image, a matplotlib figure, or whatever has a `savefig`.
        folder: Where the files go.
        source: What they show, written below them.
    """
    paths = {name: folder / f"{name}.png" for name in figures}
    for name, figure in figures.items():
        write_atomically(paths[name], partial(write_png, figure, source))
    return paths


def _add(output: EvaluatorOutput, label: str, pair: Any) -> None:
    """Add one yielded pair of a name and a value."""
    if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[0], str):
        raise UserError(f"{label} yields {_short_repr(pair)}; expected pairs of a name and a value.")
    key, value = pair
    if isinstance(value, list):
        output.lists[key] = [_number(label, key, entry) for entry in value]
    elif not isinstance(value, Image.Image) and not hasattr(value, "savefig"):
        output.numbers[key] = _number(label, key, value)
    elif not key or "/" in key or "\\" in key or ".." in key:  # it becomes the name of a file
        raise UserError(f"{label} yields a figure called {key!r}; expected a plain name, which a file could have.")
    else:
        output.figures[key] = value


def _number(label: str, key: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{label} yields {key}={_short_repr(value)}; "
            "expected a number, a list of them, or a figure (a matplotlib Figure or a Pillow image)."
        ) from error


def _short_repr(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 and "\n" not in text else f"a {type(value).__name__}"
