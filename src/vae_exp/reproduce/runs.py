"""The runs of a target: what they have reached, and the commands that take them further."""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from types import FrameType

from vae_exp.engine.progress import format_duration
from vae_exp.errors import Interrupted
from vae_exp.reproduce.targets import ReproductionTarget
from vae_exp.storage.atomic_io import read_yaml
from vae_exp.storage.run_directory import RunDirectory
from vae_exp.tracking.metrics_file import read_rows

_RECENT_EPOCHS = 20  # whose seconds estimate the time left


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
        reached = [_epochs(directory) for directory in self.directories]
        done, total = sum(epoch for epoch, _ in reached), sum(epochs for _, epochs in reached)
        if not total:
            return ""
        return f"epoch {done:,} of {total:,}" if len(reached) == 1 else f"{done:,} of {total:,} epochs, all seeds"

    def time_left(self) -> str:
        """About how long the runs that have begun still train, as `, about 5.2 h left`; empty if unknown."""
        seconds = sum(_seconds_left(directory) for directory in self.directories)
        return f", about {format_duration(seconds)} left" if seconds else ""

    def complete(self, overrides: Sequence[str]) -> RunDirectory | None:
        """Train and evaluate all seeds, as far as that has not been done.

        Args:
            overrides: For training runs that begin.

        Returns:
            The directory of the run that failed; None where all succeeded.

        Raises:
            Interrupted: if a signal has ended a command.
        """
        for seed, directory in enumerate(self.directories):
            seeding = [f"seed={seed}"] if self.target.seeds > 1 else []
            if not (_train(self.target, directory, [*seeding, *overrides]) and _evaluate(self.target, directory)):
                return directory
        return None

    def _value(self, directory: RunDirectory) -> float | None:
        """The metric of a run that is complete."""
        result = directory.read_result() or {}
        if result.get("status") != "completed":
            return None
        metrics = result["metrics"]
        if self.target.evaluate:
            scores = directory.evaluation(self.target.split, "last")
            metrics = json.loads(scores.read_text(encoding="utf-8"))["metrics"] if scores.is_file() else {}
        value = metrics.get(self.target.metric)
        return None if value is None else float(value)


def _epochs(directory: RunDirectory) -> tuple[int, int]:
    """The epochs that a run has ended, and those it has in all; zeros where there is no run."""
    if not directory.config.exists():
        return 0, 0
    rows = read_rows(directory.metrics) if directory.metrics.exists() else []
    return (int(rows[-1]["epoch"]) if rows else 0), int(read_yaml(directory.config)["trainer"]["epochs"])


def _seconds_left(directory: RunDirectory) -> float:
    epoch, epochs = _epochs(directory)
    if epoch in (0, epochs):
        return 0.0
    rows = read_rows(directory.metrics)[-_RECENT_EPOCHS:]
    return float(median(row["time/epoch_seconds"] for row in rows)) * (epochs - epoch)


def _train(target: ReproductionTarget, directory: RunDirectory, overrides: Sequence[str]) -> bool:
    """Train a run, or resume it, unless it is complete."""
    if (directory.read_result() or {}).get("status") == "completed":
        return True
    if directory.config.exists():
        return run_command("train", [f"resume={directory.path}"]) == 0
    fixed = ["tracker=none", "evaluator=[elbo]", f"hydra.run.dir={directory.path}"]
    return run_command("train", [*target.train, *fixed, *overrides]) == 0


def _evaluate(target: ReproductionTarget, directory: RunDirectory) -> bool:
    if not target.evaluate:
        return True
    selection = [f"run={directory.path}", f"split={target.split}", "checkpoint=last"]
    return run_command("evaluate", [*selection, *target.evaluate]) == 0


def run_command(name: str, arguments: Sequence[str]) -> int:
    """Run `python -m vae_exp.NAME` to its end, which SIGINT and SIGTERM ask for in order.

    The command has a process group of its own: a terminal's Ctrl-C reaches it once, from here.

    Returns:
        Its exit code.

    Raises:
        Interrupted: if it has ended by such a signal.
    """
    process = subprocess.Popen([sys.executable, "-m", f"vae_exp.{name}", *arguments], process_group=0)  # noqa: S603

    def forward(number: int, frame: FrameType | None) -> None:
        process.send_signal(number)

    previous = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        code = process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    for number in previous:
        if code in (Interrupted(number).exit_code, -number):
            raise Interrupted(number)
    return code
