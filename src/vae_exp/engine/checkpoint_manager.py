"""When checkpoints are written: as often as asked for, as long as it costs next to nothing."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vae_exp.engine.checkpoint import save_checkpoint
from vae_exp.storage.run_directory import RunDirectory, fsync_directory, write_atomically

State = dict[str, Any]
_WRITING_SHARE = 0.04  # of the training time
_COPYING_SHARE = 0.01
_COPYING_SECONDS = 0.05  # that the shortest run may spend on copies
_FIRST_GUESS_SECONDS = 0.02
_GUESSED_BYTES_PER_SECOND = 200e6


@dataclass(frozen=True)
class CheckpointInterval:
    """How often `last.pt` is written.

    Args:
        epochs: After this many epochs; None leaves it to the seconds.
        seconds: After this many seconds, at the end of an epoch; None leaves it to the epochs.
    """

    epochs: int | None
    seconds: float | None


class CheckpointManager:
    """Writes `last.pt` and `best.pt`, and spends at most 5 % of the training time on it.

    Of these, 4 % are for writing. What is due but cannot be afforded yet waits as a copy on the device; 1 %
    (and 0.05 s) are for such copies of the last epoch, and that of the best is made whatever it costs.
    The end of training writes everything, and so does its failure.

    A best state is written before a `last.pt` of a later epoch, and after the `last.pt` of the same epoch, of
    which it is then a link: however the process is killed, `last.pt` is enough to go on from.

    Args:
        directory: The run's.
        cadence: How often.
    """

    def __init__(self, directory: RunDirectory, cadence: CheckpointInterval) -> None:
        self.spent = 0.0
        self._writes = 0
        self._copying = 0.0
        self._directory = directory
        self._cadence = cadence
        self._saved_epoch = 0
        self._saved_at = time.monotonic()
        self._waiting_best: State | None = None
        self._waiting_last: State | None = None

    def epoch_ended(self, state: Callable[[], State], epoch: int, *, improved: bool, seconds: float) -> None:
        """Write what is due.

        Args:
            state: Makes the state to keep; called only where it is needed.
            epoch: How many epochs have been trained.
            improved: Whether this epoch is the best so far.
            seconds: How long training has taken so far.
        """
        due = self._is_due(epoch)
        if due and self._is_affordable(state, seconds, improved):
            self._write(state(), epoch, improved)
        elif improved or (due and self._copying <= _COPYING_SECONDS + _COPYING_SHARE * seconds):
            began = time.perf_counter()
            self._waiting_last = _copied(state())
            if improved:
                self._waiting_best = self._waiting_last
            self._copying += time.perf_counter() - began

    def finish(self, state: Callable[[], State], epoch: int) -> None:
        """Write whatever still waits after the last epoch."""
        if self._saved_epoch != epoch:
            self._write(state(), epoch, improved=False)

    def rescue(self) -> None:
        """Write what still waits of earlier epochs: training has failed since."""
        best, last = self._waiting_best, self._waiting_last
        if last is not None:
            self._write(last, last["epoch"], improved=best is last)
        elif best is not None:
            save_checkpoint(self._directory.checkpoint("best"), best)

    def write_now(self, state: Callable[[], State], epoch: int) -> None:
        """Write `last.pt` in the middle of an epoch, and the best state if it still waits."""
        self._write(state(), epoch, improved=False)

    def state_dict(self) -> dict[str, float]:
        """What has been spent so far, as plain values."""
        return {"writing": self.spent, "writes": self._writes, "copying": self._copying}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from there."""
        self.spent, self._copying = state["writing"], state["copying"]
        self._writes = int(state["writes"])

    def _is_due(self, epoch: int) -> bool:
        by_epochs = self._cadence.epochs is not None and epoch - self._saved_epoch >= self._cadence.epochs
        waited = time.monotonic() - self._saved_at
        return by_epochs or (self._cadence.seconds is not None and waited >= self._cadence.seconds)

    def _is_affordable(self, state: Callable[[], State], seconds: float, improved: bool) -> bool:
        if self._writes:
            cost = self.spent / self._writes
        else:
            cost = _FIRST_GUESS_SECONDS + _size(state()) / _GUESSED_BYTES_PER_SECOND
        writes = 1 if improved or self._waiting_best is None else 2
        return self.spent + writes * cost <= _WRITING_SHARE * seconds

    def _write(self, state: State, epoch: int, improved: bool) -> None:
        began = time.perf_counter()
        last, best = self._directory.checkpoint("last"), self._directory.checkpoint("best")
        writes = 1
        if self._waiting_best is not None and not improved:
            save_checkpoint(best, self._waiting_best)
            writes = 2
        self._waiting_best = self._waiting_last = None
        save_checkpoint(last, state)
        if improved:
            link(last, best)
        self.spent += time.perf_counter() - began
        self._writes += writes
        self._saved_epoch, self._saved_at = epoch, time.monotonic()


def link(source: Path, target: Path) -> None:
    """Give a checkpoint a second name, atomically; the two share their bytes until one is replaced."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
        temporary.replace(target)
    except OSError:  # a file system without links
        content = source.read_bytes()
        write_atomically(target, lambda file: file.write(content))
    fsync_directory(target.parent)


def mend(directory: RunDirectory, state: State, best_epoch: int | None) -> None:
    """Put right what a kill between two writes has left.

    Args:
        directory: The run's.
        state: What `last.pt` holds.
        best_epoch: The epoch of `best.pt`; None where there is none.
    """
    at_best = state["batches"] == 0 and state["best"]["epoch"] == state["epoch"] > 0
    if at_best and best_epoch != state["epoch"]:
        link(directory.checkpoint("last"), directory.checkpoint("best"))


def _copied(value: Any) -> Any:
    """A deep copy, which training no longer changes."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copied(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(entry) for entry in value)
    return value


def _size(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, dict):
        return sum(_size(entry) for entry in value.values())
    return sum(_size(entry) for entry in value) if isinstance(value, list | tuple) else 0
