"""When checkpoints are saved: `last.pt` at an interval, `best.pt` with it."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vae_exp.engine.checkpoint import load_checkpoint, save_checkpoint
from vae_exp.storage.atomic_io import fsync_directory, write_atomically
from vae_exp.storage.run_directory import RunDirectory

State = dict[str, Any]


class CheckpointManager:
    """Saves `last.pt` and `best.pt`.

    A best state between two saves is kept in memory until the next one: a crash loses at most an interval of
    training, an orderly end nothing.

    A best state is written before a `last.pt` of a later epoch, and after the `last.pt` of the same epoch, of
    which it is then a link: however the process is killed, `last.pt` is enough to resume from.

    Args:
        directory: The run's.
        every_n_epochs: Save after this many epochs; None leaves it to the seconds.
        every_n_seconds: Save at the end of an epoch after this many seconds; None leaves it to the epochs.
    """

    def __init__(self, directory: RunDirectory, every_n_epochs: int | None, every_n_seconds: float | None) -> None:
        self._directory = directory
        self._every_n_epochs = every_n_epochs
        self._every_n_seconds = every_n_seconds
        self._saved_epoch = 0
        self._saved_at = time.monotonic()
        self._pending_best: State | None = None

    def on_epoch_end(self, state: Callable[[], State], epoch: int, *, improved: bool) -> None:
        """Save what is due.

        Args:
            state: Makes the state to save; called only where it is needed.
            epoch: How many epochs have been trained.
            improved: Whether this epoch is the best so far.
        """
        is_due = self._is_due(epoch)
        if not (is_due or improved):
            return
        current = state()
        if improved:
            self._pending_best = current if is_due else _copy(current)
        if is_due:
            self._save(current)

    def save_final(self, state: Callable[[], State], epoch: int) -> None:
        """Save the state after the last epoch, unless it is saved."""
        if self._saved_epoch != epoch:
            self._save(state())

    def save_now(self, state: Callable[[], State]) -> None:
        """Save the state in the middle of an epoch, and the best one."""
        self._save(state())

    def flush_pending(self) -> None:
        """Save the best state of earlier epochs: training has failed since."""
        if self._pending_best is not None:
            self._save(self._pending_best)

    def load_best(self) -> State | None:
        """The state of the best epoch, on the CPU; None where the file has been removed.

        Raises:
            UserError: if the file is damaged.
        """
        path = self._directory.checkpoint("best")
        return load_checkpoint(path, torch.device("cpu")) if path.exists() else None

    def _is_due(self, epoch: int) -> bool:
        seconds = time.monotonic() - self._saved_at
        by_epochs = self._every_n_epochs is not None and epoch - self._saved_epoch >= self._every_n_epochs
        return by_epochs or (self._every_n_seconds is not None and seconds >= self._every_n_seconds)

    def _save(self, state: State) -> None:
        last, best = self._directory.checkpoint("last"), self._directory.checkpoint("best")
        pending = self._pending_best
        is_best = pending is not None and pending["epoch"] == state["epoch"] and state["batches"] == 0
        if pending is not None and not is_best:
            save_checkpoint(best, pending)
        self._pending_best = None
        save_checkpoint(last, state)
        if is_best:
            hardlink_or_copy(last, best)
        self._saved_epoch, self._saved_at = state["epoch"], time.monotonic()


def hardlink_or_copy(source: Path, target: Path) -> None:
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


def repair_best(directory: RunDirectory, state: State, best_epoch: int | None) -> None:
    """Link `best.pt` to `last.pt` where a kill between two writes has left it behind.

    Args:
        directory: The run's.
        state: What `last.pt` holds.
        best_epoch: The epoch of `best.pt`; None where there is none.
    """
    is_best = state["batches"] == 0 and state["best"]["epoch"] == state["epoch"] > 0
    if is_best and best_epoch != state["epoch"]:
        hardlink_or_copy(directory.checkpoint("last"), directory.checkpoint("best"))


def _copy(value: Any) -> Any:
    """A deep copy, which training no longer changes."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copy(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copy(entry) for entry in value)
    return value
