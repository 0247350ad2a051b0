"""Running evaluators: numbers on one side, figures on the other."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property, partial
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import torch

from vae_exp.data.images import ImageSet
from vae_exp.engine.memory import evaluator_out_of_memory
from vae_exp.engine.precision import computing_in
from vae_exp.engine.progress import EvaluationProgress
from vae_exp.engine.protocols import Evaluator, Tracker
from vae_exp.engine.seeding import generator
from vae_exp.engine.shutdown import GracefulShutdown
from vae_exp.errors import Interrupted, UserError
from vae_exp.model.vae import VAE
from vae_exp.storage.run_directory import write_atomically

_log = logging.getLogger(__name__)
_QUICK = {"compress_level": 1}


class EvaluatorLoop:
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
        self._told: set[str] = set()

    def due(self, epoch: int) -> list[str]:
        """Those whose turn it is after this epoch."""
        return [name for name, each in self._evaluators.items() if each.every and epoch % each.every == 0]

    def waiting(self) -> list[str]:
        """Those that run once, after the last epoch."""
        return [name for name, each in self._evaluators.items() if each.every == 0]

    def run(self, names: Sequence[str], step: int, guard: GracefulShutdown) -> dict[str, float]:
        """Run these; their numbers by split and name, their figures to the folder and the trackers.

        Raises:
            Interrupted: on Ctrl-C or SIGTERM, before the next evaluator.
            UserError: if one cannot be run.
        """
        split = "val" if len(self._val) else "train"
        metrics: dict[str, float] = {}
        for name in names:
            guard.check()
            evaluator = self._evaluators[name]
            if not evaluator.every:
                _log.info("Evaluating %s …", name)
            with nullcontext() if evaluator.every else EvaluationProgress(name) as progress:
                images = replace(self._images, on_progress=progress)
                numbers, figures, lists = run_evaluator(name, evaluator, self._vae, images, self._seed)
            self._told |= warn_of_strange_numbers(name, numbers, self._told)
            metrics |= {f"{split}/{key}": value for key, value in numbers.items()}
            if figures:
                paths = save_figures(figures, self._figures)
                for tracker in self._trackers:
                    tracker.log_figures(paths, step)
            if lists:
                for tracker in self._trackers:
                    tracker.log_lists({f"{split}/{key}": value for key, value in lists.items()}, step)
        guard.check()
        return metrics

    @cached_property
    def _images(self) -> ImageSet:
        return self._val if len(self._val) else self._train.settled()


class Results(NamedTuple):
    """What an evaluator has yielded, each by name.

    Args:
        numbers: Metrics.
        figures: matplotlib figures.
        lists: Numbers that belong together, one for each latent unit, say; only trackers keep them.
    """

    numbers: dict[str, float]
    figures: dict[str, Any]
    lists: dict[str, list[float]]


@torch.no_grad()
def run_evaluator(name: str, evaluator: Evaluator, vae: VAE, images: ImageSet, seed: int) -> Results:
    """What an evaluator yields, with noise that follows from the seed alone.

    Args:
        name: Its key in the group `evaluator`.
        evaluator: What is run.
        vae: The model.
        images: What it is run on.
        seed: Of the noise.

    Raises:
        UserError: if it fails, or yields something else than these.
        MemoryExhaustedError: if memory does not suffice for it.
    """
    vae.eval()
    noise = generator(seed, "evaluation", images.device)
    what = f"evaluator.{name} ({type(evaluator).__module__}.{type(evaluator).__qualname__})"
    results = Results({}, {}, {})
    try:
        with computing_in(vae, "fp32"):
            for key, value in _named(what, evaluator.run(vae, images, noise)):
                if hasattr(value, "savefig"):
                    results.figures[_file_name(what, key)] = value
                elif isinstance(value, list):
                    results.lists[key] = [_number(what, key, each) for each in value]
                else:
                    results.numbers[key] = _number(what, key, value)
    except (UserError, Interrupted):
        raise
    except Exception as error:  # of a user's own class, which may stumble over anything
        told = evaluator_out_of_memory(error, name, images.device)
        raise told or UserError(f"{what} fails: {type(error).__name__}: {error}") from error
    return results


def warn_of_strange_numbers(name: str, numbers: Mapping[str, float], told: set[str]) -> set[str]:
    """Warn of numbers of an evaluator that are none, unless they have been told before.

    Args:
        name: The evaluator's key.
        numbers: What it has yielded.
        told: Metrics that have been told, each as `evaluator.metric`.

    Returns:
        Those of this call, as `told` has them.
    """
    strange = {key for key, value in numbers.items() if not isfinite(value)}
    for key in sorted(strange):
        if f"{name}.{key}" not in told:
            _log.warning("evaluator.%s yields %s=%s, which is no figure.", name, key, numbers[key])
    return {f"{name}.{key}" for key in strange}


def _named(what: str, results: Any) -> Iterator[tuple[str, Any]]:
    """What `run` yields, each a pair."""
    for result in results:
        if not isinstance(result, tuple | list) or len(result) != 2 or not isinstance(result[0], str):
            raise UserError(f"{what} yields {_shown(result)}; expected pairs of a name and a value.")
        yield result[0], result[1]


def _number(what: str, key: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{what} yields {key}={_shown(value)}; expected a number, a list of them, or a matplotlib Figure."
        ) from error


def _file_name(what: str, key: str) -> str:
    """The name of a figure, which becomes that of a file in the run directory."""
    if not key or "/" in key or "\\" in key or ".." in key:
        raise UserError(f"{what} yields a figure called {key!r}; expected a plain name, which a file could have.")
    return key


def _shown(value: Any) -> str:
    """A value in a few words; of a large one its type."""
    told = repr(value)
    return told if len(told) <= 60 and "\n" not in told else f"a {type(value).__name__}"


def save_figures(figures: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """Write figures as PNG files, each whole or not at all; the files by name."""
    paths = {name: folder / f"{name}.png" for name in figures}
    for name, figure in figures.items():
        write_atomically(paths[name], partial(figure.savefig, format="png", pil_kwargs=_QUICK))
        figure.clear()  # a figure and its parts refer to one another: without this a sweep grows
    return paths
