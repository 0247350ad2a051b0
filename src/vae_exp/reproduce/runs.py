"""The runs of a target: what they have reached, and the commands that take them further."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from omegaconf import OmegaConf

from vae_exp.configuration.overrides import quote_value
from vae_exp.engine.progress import format_duration
from vae_exp.engine.shutdown import GracefulShutdown
from vae_exp.errors import UserError
from vae_exp.reproduce.targets import ReproductionTarget
from vae_exp.storage.atomic_io import read_yaml
from vae_exp.storage.run_directory import RunDirectory
from vae_exp.sweep.job_records import read_overrides
from vae_exp.tracking.metrics_file import read_rows

_RECENT_EPOCHS = 20  # whose seconds estimate the time left
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class ReproductionResult:
    """The reproduced figure.

    Args:
        values: The metric for each seed.
        provenance: Device, versions and time.
    """

    values: tuple[float, ...]
    provenance: str


@dataclass(frozen=True)
class TargetRuns:
    """The runs of a target below a folder, one for each seed.

    Args:
        target: What they reproduce.
        root: The folder of all targets.
    """

    target: ReproductionTarget
    root: Path

    @property
    def directories(self) -> list[RunDirectory]:
        """The run directories, by seed."""
        path = self.root / self.target.name
        if self.target.seeds == 1:
            return [RunDirectory(path)]
        return [RunDirectory(path / f"seed-{seed}") for seed in range(self.target.seeds)]

    def result(self) -> ReproductionResult | None:
        """The reproduced figure; None while a run or its evaluation is missing."""
        with _readable(self.root / self.target.name):
            values = [self._value(directory) for directory in self.directories]
            if any(value is None for value in values):
                return None
            results = [directory.read_result() or {} for directory in self.directories]
            device = f"{results[0]['device']}, torch {results[0]['versions']['torch']}"
            duration = format_duration(fmean(result["seconds"]["training"] for result in results))
        provenance = f"{device}, {duration}" + (" a seed" if len(results) > 1 else "")
        return ReproductionResult(tuple(value for value in values if value is not None), provenance)

    def progress(self) -> str:
        """How far training is: `epoch 412 of 3,280`; empty where it has not begun."""
        done, total = self._epochs()
        if not total:
            return ""
        return (
            f"epoch {done:,} of {total:,}"
            if self.target.seeds == 1
            else f"{done:,} of {total:,} epochs, all seeds"
        )

    def time_left(self) -> str:
        """About how long training still takes, as `, about 5.2 h left`; empty where no epoch has ended."""
        rows = [row for directory in self.directories for row in _rows(directory)[-_RECENT_EPOCHS:]]
        times = [row["time/epoch_seconds"] for row in rows if "time/epoch_seconds" in row]
        done, total = self._epochs()
        if not times or done == total:
            return ""
        seconds = median(times) * (total - done)
        return f", about {format_duration(seconds)} left"

    def complete(self, overrides: Sequence[str], shutdown: GracefulShutdown) -> str | None:
        """Train and evaluate all seeds, as far as that has not been done.

        Args:
            overrides: For every training run.
            shutdown: Requests to stop, which a command is given time to follow.

        Returns:
            The command that failed, such as `evaluate` of a run directory; None where all succeeded.

        Raises:
            UserError: if a directory holds a run of another recipe.
            Interrupted: if a stop was requested.
        """
        for seed, directory in enumerate(self.directories):
            _check_recipe(self.target, directory)
            seeding = [f"seed={seed}"] if self.target.seeds > 1 else []
            commands = [
                *_training(self.target, directory, seeding, overrides),
                *_evaluation(self.target, directory),
            ]
            for command in commands:
                if run_command(command, shutdown) != 0:
                    return f"{command[0]} of {directory.path}"
        return None

    def _epochs(self) -> tuple[int, int]:
        """The epochs that have ended, and those of all seeds; zeros where no run has begun."""
        begun = [directory for directory in self.directories if directory.config.exists()]
        if not begun:
            return 0, 0
        with _readable(self.root / self.target.name):
            epochs = int(read_yaml(begun[0].config)["trainer"]["epochs"])
            done = sum(epochs if _is_trained(directory) else _last_epoch(directory) for directory in begun)
        return done, epochs * self.target.seeds

    def _value(self, directory: RunDirectory) -> float | None:
        """The metric of a run that is complete."""
        result = directory.read_result() or {}
        if result.get("status") != "completed":
            return None
        metrics = result["metrics"]
        if self.target.evaluate:
            scores = directory.evaluation(self.target.split, self.target.checkpoint)
            content = json.loads(scores.read_text(encoding="utf-8")) if scores.is_file() else {}
            metrics = content["metrics"] if _has_settings(content, self.target.evaluate) else {}
        value = metrics.get(self.target.metric)
        return None if value is None else float(value)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """A block that reads what runs have written.

    Raises:
        UserError: if it is something else.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{path} holds no run that can be read ({reason}); move it away, or choose a --root."
        ) from error


def _check_recipe(target: ReproductionTarget, directory: RunDirectory) -> None:
    """Refuse a run that was not started by the overrides of a target."""
    overrides = read_overrides(directory.overrides)
    missing = [override for override in target.train if override not in overrides]
    if directory.config.exists() and directory.overrides.exists() and missing:
        raise UserError(
            f"{directory.path} holds a run of another recipe, without {missing[0]}; move it away, or choose "
            f"another --root."
        )


def _has_settings(scores: Mapping[str, Any], overrides: Sequence[str]) -> bool:
    """Whether these settings of evaluators made a score file; the run may have been scored with others, too."""
    settings = OmegaConf.from_dotlist([override for override in overrides if override.startswith("evaluator.")])
    made_with = scores.get("evaluator", {})
    return bool(scores) and all(
        made_with.get(name, {}).get(key) == value
        for name, own in settings.get("evaluator", {}).items()
        for key, value in own.items()
    )


def _is_trained(directory: RunDirectory) -> bool:
    """Whether training has ended, by early stopping too."""
    return (directory.read_result() or {}).get("status") == "completed"


def _last_epoch(directory: RunDirectory) -> int:
    """The last epoch that has ended; 0 before the first."""
    rows = _rows(directory)
    return int(rows[-1]["epoch"]) if rows else 0


def _rows(directory: RunDirectory) -> list[dict[str, Any]]:
    """The metrics of the epochs that a run has ended."""
    return read_rows(directory.metrics) if directory.metrics.exists() else []


def _training(
    target: ReproductionTarget, directory: RunDirectory, seeding: Sequence[str], overrides: Sequence[str]
) -> list[list[str]]:
    """The command that trains a run or resumes it; none where it is complete."""
    if _is_trained(directory):
        return []
    if directory.config.exists():
        return [["train", f"resume={quote_value(str(directory.path))}", *overrides]]
    fixed = ["tracker=none", "evaluator=[elbo]", f"hydra.run.dir={quote_value(str(directory.path))}"]
    return [["train", *target.train, *fixed, *seeding, *overrides]]


def _evaluation(target: ReproductionTarget, directory: RunDirectory) -> list[list[str]]:
    """The command that evaluates a run; none where the metric is one of training."""
    if not target.evaluate:
        return []
    which = [f"run={quote_value(str(directory.path))}", f"split={target.split}", f"checkpoint={target.checkpoint}"]
    return [["evaluate", *which, *target.evaluate]]


def run_command(command: Sequence[str], shutdown: GracefulShutdown) -> int:
    """Run `python -m vae_exp.NAME …` to its end, which each request to stop asks for.

    The command has a process group of its own: a terminal's Ctrl-C reaches it once, from here.

    Returns:
        Its exit code.

    Raises:
        Interrupted: if a stop was requested.
    """
    shutdown.raise_if_requested()
    name, *arguments = command
    process = subprocess.Popen([sys.executable, "-m", f"vae_exp.{name}", *arguments], process_group=0)  # noqa: S603
    requests = 0
    while process.poll() is None:
        if shutdown.count > requests:
            requests = shutdown.count
            process.terminate()
        time.sleep(_POLL_SECONDS)
    shutdown.raise_if_requested()
    return process.returncode
