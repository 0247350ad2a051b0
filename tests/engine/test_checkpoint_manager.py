import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders import CPU
from vae_exp.engine import checkpoint_manager
from vae_exp.engine.checkpoint import load_checkpoint, save_checkpoint
from vae_exp.engine.checkpoint_manager import CheckpointManager, hardlink_or_copy, repair_best
from vae_exp.storage.run_directory import RunDirectory


@dataclass
class Run:
    """The least that a checkpoint manager needs of a training run."""

    manager: CheckpointManager
    epoch: int = 0
    batches: int = 0
    best: tuple[int, float] = (0, inf)
    weights: torch.Tensor = field(default_factory=lambda: torch.zeros(3))

    def state(self) -> dict[str, Any]:
        best = {"epoch": self.best[0], "value": self.best[1]}
        vae = {"weights": self.weights, "list": [self.weights]}
        return {"epoch": self.epoch, "batches": self.batches, "best": best, "vae": vae}

    def train(self, *values: float) -> None:
        """Epochs that end with these values of the monitor."""
        for value in values:
            self.epoch += 1
            self.weights.fill_(self.epoch)
            improved = value < self.best[1]
            if improved:
                self.best = (self.epoch, value)
            self.manager.on_epoch_end(self.state, self.epoch, improved=improved)

    def finish(self) -> None:
        self.manager.save_final(self.state, self.epoch)


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "run")


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The checkpoints that are written, by name and epoch."""
    writes: list[tuple[str, int]] = []

    def save(path: Path, state: dict[str, Any]) -> None:
        writes.append((path.stem, state["epoch"]))
        save_checkpoint(path, state)

    monkeypatch.setattr(checkpoint_manager, "save_checkpoint", save)
    return writes


def run_in(directory: RunDirectory, epochs: int | None = 1, seconds: float | None = None) -> Run:
    return Run(CheckpointManager(directory, epochs, seconds))


def stored(directory: RunDirectory, name: str) -> tuple[int, float] | None:
    """The epoch of a checkpoint, and what its weights were filled with; None where there is none."""
    path = directory.checkpoint(name)
    if not path.exists():
        return None
    state = load_checkpoint(path, CPU)
    assert state["vae"]["weights"].equal(state["vae"]["list"][0])
    return state["epoch"], state["vae"]["weights"][0].item()


def check_stored(directory: RunDirectory, *, best: int, last: int) -> None:
    assert (stored(directory, "best"), stored(directory, "last")) == ((best, best), (last, last))


# How often


@pytest.mark.parametrize(
    ("epochs", "seconds", "durations", "expected"),
    [
        (3, None, [4] * 8, [3, 6]),
        (None, 10, [4] * 8, [3, 6]),
        (3, 10, [4, 4, 4, 11, 1, 1, 1], [3, 4, 7]),
        (None, None, [1e6] * 3, []),
    ],
)
def test_last_is_saved_at_the_end_of_an_epoch_after_an_interval(
    monkeypatch: pytest.MonkeyPatch, written, directory: RunDirectory, epochs, seconds, durations, expected
):
    now = 1000.0
    monkeypatch.setattr(checkpoint_manager.time, "monotonic", lambda: now)
    run = run_in(directory, epochs, seconds)
    for duration in durations:
        now += duration
        run.train(1.0)
    assert [epoch for name, epoch in written if name == "last"] == expected


def test_the_end_saves_what_is_not_saved(written, directory: RunDirectory):
    run = run_in(directory, epochs=None)
    run.train(3.0, 1.0, 2.0)
    assert written == []
    run.finish()
    assert written == [("best", 2), ("last", 3)]
    check_stored(directory, best=2, last=3)
    run.finish()
    assert len(written) == 2


# The best one


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 2.0, 3.0], [("best", 1), ("last", 3)]),
        ([3.0, 1.0, 2.0], [("best", 2), ("last", 3)]),
        ([3.0, 2.0, 1.0], [("last", 3)]),
    ],
)
def test_the_best_state_is_kept_until_the_next_save(written, directory: RunDirectory, values, expected):
    run = run_in(directory, epochs=3)
    run.train(*values)
    assert written == expected
    check_stored(directory, best=1 + values.index(1.0), last=3)


@pytest.mark.parametrize("epochs", [1, None])
def test_the_best_state_of_the_saved_epoch_is_a_link(directory: RunDirectory, epochs):
    run = run_in(directory, epochs)
    run.train(1.0)
    run.finish()
    last, best = directory.checkpoint("last"), directory.checkpoint("best")
    assert best.samefile(last)
    run.train(2.0)
    run.finish()
    check_stored(directory, best=1, last=2)


@pytest.mark.parametrize(("batches", "expected"), [(2, [("best", 1), ("last", 1)]), (0, [("last", 1)])])
def test_an_interruption_saves_this_moment_and_the_best_state(written, directory: RunDirectory, batches, expected):
    run = run_in(directory, epochs=None)
    run.train(1.0)
    run.batches = batches
    run.manager.save_now(run.state)
    assert written == expected
    assert load_checkpoint(directory.checkpoint("last"), CPU)["batches"] == batches
    assert load_checkpoint(directory.checkpoint("best"), CPU)["batches"] == 0


@pytest.mark.parametrize(("epochs", "best", "last"), [(None, 2, 2), (1, 2, 3)])
def test_a_failure_leaves_the_best_state_and_a_last_one(directory: RunDirectory, epochs, best: int, last: int):
    run = run_in(directory, epochs)
    run.train(3.0, 1.0, 2.0)
    run.weights.fill_(float("nan"))
    run.manager.flush_pending()
    check_stored(directory, best=best, last=last)


# Kills


class Killed(BaseException):
    """The process ends here."""


@dataclass
class Killer:
    """Kills at the n-th thing that is done to the disk: before it, or right after it."""

    at: int
    after: bool
    done: int = 0

    def wrap(self, act: Callable[..., None]) -> Callable[..., None]:
        def perform(*arguments: Any) -> None:
            self.done += 1
            if self.done == self.at and not self.after:
                raise Killed
            act(*arguments)
            if self.done == self.at:
                raise Killed

        return perform


def _resumed(directory: RunDirectory, epochs: int | None) -> Run:
    """The run as a resume continues it."""
    run = run_in(directory, epochs)
    if directory.checkpoint("last").exists():
        state = load_checkpoint(directory.checkpoint("last"), CPU)
        best = stored(directory, "best")
        repair_best(directory, state, None if best is None else best[0])
        run.epoch, run.best = state["epoch"], (state["best"]["epoch"], state["best"]["value"])
        run.weights = state["vae"]["weights"].clone()
    return run


@settings(max_examples=60)
@given(
    values=st.lists(st.sampled_from([1.0, 2.0, 3.0, 4.0]), min_size=1, max_size=6),
    epochs=st.sampled_from([1, 2, 3, None]),
    after=st.booleans(),
    data=st.data(),
)
def test_a_run_that_was_killed_ends_as_one_that_was_not(
    monkeypatch, tmp_path_factory, values, epochs, after, data
):
    directory = RunDirectory(tmp_path_factory.mktemp("killed"))
    killer = Killer(data.draw(st.integers(min_value=1, max_value=2 * len(values) + 2)), after)
    with monkeypatch.context() as patched, suppress(Killed):
        patched.setattr(checkpoint_manager, "save_checkpoint", killer.wrap(save_checkpoint))
        patched.setattr(checkpoint_manager, "hardlink_or_copy", killer.wrap(hardlink_or_copy))
        run = run_in(directory, epochs)
        run.train(*values)
        run.finish()
    run = _resumed(directory, epochs)
    if run.best[0] == run.epoch > 0:
        assert stored(directory, "best") == (run.epoch, run.epoch)
    run.train(*values[run.epoch :])
    run.finish()
    check_stored(directory, best=1 + values.index(min(values)), last=len(values))


@pytest.mark.parametrize(("epoch", "batches", "best"), [(2, 0, 1), (2, 3, 2), (0, 0, 0)])
def test_what_is_whole_is_left_alone(directory: RunDirectory, epoch: int, batches: int, best: int):
    for name, content in (("last", b"last"), ("best", b"best")):
        directory.checkpoint(name).parent.mkdir(parents=True, exist_ok=True)
        directory.checkpoint(name).write_bytes(content)
    repair_best(directory, {"epoch": epoch, "batches": batches, "best": {"epoch": best}}, 1)
    assert directory.checkpoint("best").read_bytes() == b"best"


@pytest.mark.parametrize("has_links", [True, False])
def test_a_second_name_replaces_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool):
    def refuse(source: Path, target: Path) -> None:
        raise OSError("Operation not supported")

    if not has_links:
        monkeypatch.setattr(os, "link", refuse)
    last, best = tmp_path / "last.pt", tmp_path / "best.pt"
    last.write_bytes(b"new")
    best.write_bytes(b"old")
    (tmp_path / f".best.pt.{os.getpid()}.tmp").write_bytes(b"a leftover")
    hardlink_or_copy(last, best)
    assert best.read_bytes() == b"new"
    assert best.samefile(last) == has_links
    assert set(tmp_path.iterdir()) == {last, best}
