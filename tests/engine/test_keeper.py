import os
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vae_exp.engine import checkpoint_manager
from vae_exp.engine.checkpoint import load_checkpoint, save_checkpoint
from vae_exp.engine.checkpoint_manager import CheckpointInterval, CheckpointManager, link, mend
from vae_exp.storage.run_directory import RunDirectory

CPU = torch.device("cpu")
AMPLE = 1e9  # seconds of training beside which saving costs nothing
NONE = 0.0
reproducibly = settings(
    deadline=None, derandomize=True, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@dataclass
class Clock:
    """Time that passes only where a test lets it; every checkpoint takes `cost` seconds to write, and
    `copying` to copy."""

    now: float = 1000.0
    cost: float = 0.0
    copying: float = 0.0
    written: list[tuple[str, int]] = field(default_factory=list)
    copied: list[int] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.now

    def perf_counter(self) -> float:
        return self.now

    def save(self, path: Path, state: dict[str, Any]) -> None:
        self.now += self.cost
        self.written.append((path.stem, state["epoch"]))
        save_checkpoint(path, state)

    def copy(self, state: dict[str, Any]) -> dict[str, Any]:
        self.now += self.copying
        self.copied.append(state["epoch"])
        return deepcopy(state)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(checkpoint_manager, "time", made)
    monkeypatch.setattr(checkpoint_manager, "save_checkpoint", made.save)
    monkeypatch.setattr(checkpoint_manager, "_copied", made.copy)
    return made


@dataclass
class Run:
    """The least that a keeper has to know of a training run: an epoch, and what was best."""

    kept: CheckpointManager
    epoch: int = 0
    batches: int = 0
    best: tuple[int, float] = (0, inf)
    weights: torch.Tensor = field(default_factory=lambda: torch.zeros(3))

    def state(self) -> dict[str, Any]:
        best = {"epoch": self.best[0], "value": self.best[1]}
        return {"epoch": self.epoch, "batches": self.batches, "best": best, "vae": {"weights": self.weights}}

    def train(self, value: float, seconds: float) -> None:
        """An epoch that ends with this value of the monitor."""
        self.epoch += 1
        self.weights.fill_(self.epoch)
        improved = value < self.best[1]
        if improved:
            self.best = (self.epoch, value)
        self.kept.epoch_ended(self.state, self.epoch, improved=improved, seconds=seconds)

    def finish(self) -> None:
        self.kept.finish(self.state, self.epoch)


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "run")


def run_in(directory: RunDirectory, epochs: int | None = 1, seconds: float | None = None) -> Run:
    return Run(CheckpointManager(directory, CheckpointInterval(epochs, seconds)))


def stored(directory: RunDirectory, name: str) -> tuple[int, float] | None:
    """The epoch of a checkpoint, and what its weights were filled with; None where there is none."""
    path = directory.checkpoint(name)
    if not path.exists():
        return None
    state = load_checkpoint(path, CPU)
    return state["epoch"], state["vae"]["weights"][0].item()


# How often


def test_last_is_written_every_so_many_epochs(clock: Clock, directory: RunDirectory):
    run = run_in(directory, epochs=3)
    for _ in range(8):
        run.train(1.0, AMPLE)
    assert [epoch for name, epoch in clock.written if name == "last"] == [3, 6]


def test_last_is_written_at_the_end_of_an_epoch_after_so_many_seconds(clock: Clock, directory: RunDirectory):
    run = run_in(directory, epochs=None, seconds=10)
    for _ in range(8):
        clock.now += 4
        run.train(1.0, AMPLE)
    assert [epoch for name, epoch in clock.written if name == "last"] == [3, 6]


def test_whichever_comes_first(clock: Clock, directory: RunDirectory):
    run = run_in(directory, epochs=3, seconds=10)
    for passed in (4, 4, 4, 11, 1, 1, 1):
        clock.now += passed
        run.train(1.0, AMPLE)
    assert [epoch for name, epoch in clock.written if name == "last"] == [3, 4, 7]


def test_without_a_cadence_the_end_alone_writes(clock: Clock, directory: RunDirectory):
    run = run_in(directory, epochs=None)
    for value in (3.0, 1.0, 2.0):
        clock.now += 1e6
        run.train(value, AMPLE)
    assert clock.written == []
    run.finish()
    assert (stored(directory, "best"), stored(directory, "last")) == ((2, 2.0), (3, 3.0))


def test_the_end_does_not_write_again_what_is_written(clock: Clock, directory: RunDirectory):
    run = run_in(directory)
    run.train(1.0, AMPLE)
    written = list(clock.written)
    run.finish()
    assert clock.written == written


# What it may cost


@reproducibly
@given(
    cost=st.floats(min_value=0.001, max_value=3.0),
    copying=st.floats(min_value=0.0, max_value=0.5),
    durations=st.lists(st.floats(min_value=0.01, max_value=20.0), min_size=1, max_size=25),
    data=st.data(),
)
def test_saving_takes_at_most_a_twentieth_of_the_training_time(
    clock: Clock, tmp_path_factory, cost, copying, durations, data
):
    clock.cost, clock.copying = cost, copying
    run = run_in(RunDirectory(tmp_path_factory.mktemp("keeper")), epochs=1)
    guess = (
        checkpoint_manager._FIRST_GUESS_SECONDS + run.weights.nbytes / checkpoint_manager._GUESSED_BYTES_PER_SECOND
    )
    seconds = 0.0
    for duration in durations:
        seconds += duration
        clock.now += duration
        before = clock.now
        run.train(data.draw(st.sampled_from([1.0, 2.0])), seconds)
        seconds += clock.now - before
        # only the first write, whose cost is not yet known, may cost more than was thought
        assert run.kept.spent <= 0.04 * seconds + max(0.0, 2 * (cost - guess))


def test_what_was_measured_counts_from_the_second_write_on(clock: Clock, directory: RunDirectory):
    clock.cost = 1.0
    run = run_in(directory)
    run.train(2.0, 5.0)  # thought to take 0.02 s
    run.train(2.0, 49.0)
    assert [epoch for name, epoch in clock.written if name == "last"] == [1]
    run.train(2.0, 50.0)
    assert [epoch for name, epoch in clock.written if name == "last"] == [1, 3]


def test_a_waiting_best_state_is_paid_for_too(clock: Clock, directory: RunDirectory):
    clock.cost = 1.0
    run = run_in(directory)
    run.train(2.0, 5.0)
    run.train(1.0, 5.0)  # the best, and waits
    run.train(2.0, 74.0)
    assert len(clock.written) == 1
    run.train(2.0, 75.0)
    assert clock.written[1:] == [("best", 2), ("last", 4)]


def test_copies_of_what_is_not_the_best_take_at_most_a_hundredth(clock: Clock, directory: RunDirectory):
    clock.cost, clock.copying = 1e6, 1.0
    run = run_in(directory)
    run.train(1.0, 0.0)
    for seconds in (50.0, 94.0, 96.0, 150.0, 196.0):
        run.train(2.0, seconds)
    assert clock.copied == [1, 4, 6]


def test_copies_keep_nothing_from_being_written(clock: Clock, directory: RunDirectory):
    clock.cost, clock.copying = 1.0, 100.0
    run = run_in(directory)
    for epoch in range(1, 6):
        run.train(float(-epoch), 20.0 * epoch)
    assert [epoch for name, epoch in clock.written if name == "last"] == [1, 3, 4, 5]


def test_one_slow_write_is_not_thought_to_be_the_rule(clock: Clock, directory: RunDirectory):
    run = run_in(directory)
    for cost in (1.0, 1.0, 7.0):
        clock.cost = cost
        run.train(2.0, AMPLE)
    run.train(2.0, 299.0)
    assert len(clock.written) == 3
    run.train(2.0, 300.0)  # 9 s so far, and 3 s to be expected
    assert len(clock.written) == 4


def test_a_resumed_run_has_spent_what_it_had_spent(clock: Clock, directory: RunDirectory):
    clock.cost = 1.0
    run = run_in(directory)
    run.train(2.0, AMPLE)
    resumed = run_in(directory)
    resumed.best = run.best
    resumed.kept.load_state_dict(run.kept.state_dict())
    resumed.train(2.0, 49.0)
    assert len(clock.written) == 1
    resumed.train(2.0, 50.0)
    assert len(clock.written) == 2


def test_a_copy_is_not_changed_by_what_training_does_next():
    state = {"weights": torch.zeros(2), "list": [torch.zeros(1)], "epoch": 3}
    copied = checkpoint_manager._copied(state)
    state["weights"].fill_(1)
    state["list"][0].fill_(1)
    assert copied["weights"].tolist() == [0.0, 0.0]
    assert copied["list"][0].tolist() == [0.0]
    assert copied["epoch"] == 3


@pytest.mark.parametrize(("seconds", "written"), [(5.4, []), (5.6, [("last", 1)])])
def test_a_large_state_is_thought_to_take_longer(clock: Clock, directory: RunDirectory, seconds, written):
    run = run_in(directory)
    run.weights = torch.zeros(10_000_000)  # 40 MB: 0.2 s
    run.train(1.0, seconds)
    assert clock.written == written


def test_the_end_writes_whatever_it_costs(clock: Clock, directory: RunDirectory):
    run = run_in(directory)
    for value in (3.0, 1.0, 2.0):
        run.train(value, NONE)
    run.finish()
    assert clock.written == [("best", 2), ("last", 3)]


# What waits


def test_a_best_state_that_waits_is_that_of_its_epoch(clock: Clock, directory: RunDirectory):
    run = run_in(directory)
    run.train(1.0, NONE)
    run.train(2.0, NONE)
    assert clock.written == []
    run.train(3.0, AMPLE)
    assert (stored(directory, "best"), stored(directory, "last")) == ((1, 1.0), (3, 3.0))


def test_a_better_epoch_takes_the_place_of_the_one_that_waits(clock: Clock, directory: RunDirectory):
    run = run_in(directory)
    for value in (3.0, 1.0, 2.0):
        run.train(value, NONE)
    run.train(2.0, AMPLE)
    assert clock.written == [("best", 2), ("last", 4)]


def test_a_better_epoch_that_is_written_makes_the_waiting_one_needless(clock: Clock, directory: RunDirectory):
    run = run_in(directory)
    run.train(2.0, NONE)
    run.train(1.0, AMPLE)
    run.train(3.0, AMPLE)
    assert clock.written == [("last", 2), ("last", 3)]
    assert stored(directory, "best") == (2, 2.0)


def test_the_best_of_the_epoch_that_is_written_is_a_link_to_it(clock: Clock, directory: RunDirectory):
    run = run_in(directory)
    run.train(1.0, AMPLE)
    last, best = directory.checkpoint("last"), directory.checkpoint("best")
    assert best.samefile(last)
    run.train(2.0, AMPLE)
    assert not best.samefile(last)
    assert (stored(directory, "best"), stored(directory, "last")) == ((1, 1.0), (2, 2.0))


def test_an_interruption_writes_the_middle_of_the_epoch_and_what_waits(clock: Clock, directory: RunDirectory):
    run = run_in(directory)
    run.train(1.0, NONE)
    run.batches = 2
    run.kept.write_now(run.state, run.epoch)
    assert clock.written == [("best", 1), ("last", 1)]
    assert load_checkpoint(directory.checkpoint("last"), CPU)["batches"] == 2
    assert load_checkpoint(directory.checkpoint("best"), CPU)["batches"] == 0


def test_a_failure_writes_what_waits_and_nothing_of_what_came_later(clock: Clock, directory: RunDirectory):
    run = run_in(directory)
    for value in (3.0, 1.0, 2.0):
        run.train(value, NONE)
    run.weights.fill_(float("nan"))
    run.kept.rescue()
    assert (stored(directory, "best"), stored(directory, "last")) == ((2, 2.0), (3, 3.0))


def test_a_failure_leaves_what_has_been_written(clock: Clock, directory: RunDirectory):
    run = run_in(directory)
    run.train(1.0, AMPLE)
    run.train(2.0, AMPLE)
    run.weights.fill_(float("nan"))
    run.kept.rescue()
    assert (stored(directory, "best"), stored(directory, "last")) == ((1, 1.0), (2, 2.0))


# Kills


class Killed(BaseException):
    """The process ends here."""


@dataclass
class Killer:
    """Kills at the n-th thing that is done to the disk: before it, or right after it."""

    at: float = inf
    after: bool = False
    done: int = 0

    def wrapped(self, act: Callable[..., None]) -> Callable[..., None]:
        def perform(*arguments: Any) -> None:
            self.done += 1
            if self.done == self.at and not self.after:
                raise Killed
            act(*arguments)
            if self.done == self.at:
                raise Killed

        return perform


def _until_killed(run: Run, values: list[float], ample: list[bool]) -> None:
    for value, affordable in list(zip(values, ample, strict=True))[run.epoch :]:
        run.train(value, AMPLE if affordable else NONE)
    run.finish()


def _resumed(directory: RunDirectory) -> Run:
    """What going on from a directory does."""
    run = run_in(directory)
    if directory.checkpoint("last").exists():
        state = load_checkpoint(directory.checkpoint("last"), CPU)
        best = stored(directory, "best")
        mend(directory, state, None if best is None else best[0])
        run.epoch, run.best = state["epoch"], (state["best"]["epoch"], state["best"]["value"])
        run.weights = state["vae"]["weights"].clone()
    return run


@reproducibly
@given(
    values=st.lists(st.sampled_from([1.0, 2.0, 3.0, 4.0]), min_size=1, max_size=6),
    after=st.booleans(),
    data=st.data(),
)
def test_a_run_that_was_killed_ends_as_one_that_was_not(monkeypatch, tmp_path_factory, values, after, data):
    ample = data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)))
    directory = RunDirectory(tmp_path_factory.mktemp("killed"))
    kill_at = data.draw(st.integers(min_value=1, max_value=2 * len(values) + 2))
    killer = Killer(kill_at, after)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint_manager, "save_checkpoint", killer.wrapped(save_checkpoint))
        patched.setattr(checkpoint_manager, "link", killer.wrapped(link))
        with suppress(Killed):
            _until_killed(run_in(directory), values, ample)
    run = _resumed(directory)
    if run.best[0] == run.epoch > 0:
        assert stored(directory, "best") == (run.epoch, run.epoch)
    _until_killed(run, values, data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values))))
    best = 1 + values.index(min(values))
    assert stored(directory, "best") == (best, best)
    assert stored(directory, "last") == (len(values), len(values))


@pytest.mark.parametrize("best_epoch", [None, 1])
def test_a_link_that_was_not_made_is_made(directory: RunDirectory, best_epoch: int | None):
    run = run_in(directory)
    run.train(2.0, AMPLE)
    run.train(1.0, AMPLE)
    directory.checkpoint("best").unlink()
    mend(directory, run.state(), best_epoch)
    assert stored(directory, "best") == (2, 2.0)


@pytest.mark.parametrize(("epoch", "batches", "best"), [(2, 0, 1), (2, 3, 2), (0, 0, 0)])
def test_what_is_whole_is_left_alone(directory: RunDirectory, epoch: int, batches: int, best: int):
    for name, content in (("last", b"last"), ("best", b"best")):
        directory.checkpoint(name).parent.mkdir(parents=True, exist_ok=True)
        directory.checkpoint(name).write_bytes(content)
    mend(directory, {"epoch": epoch, "batches": batches, "best": {"epoch": best}}, 1)
    assert directory.checkpoint("best").read_bytes() == b"best"


# Links


def test_a_link_replaces_what_is_there(tmp_path: Path):
    (tmp_path / "last.pt").write_bytes(b"new")
    (tmp_path / "best.pt").write_bytes(b"old")
    (tmp_path / f".best.pt.{os.getpid()}.tmp").write_bytes(b"a leftover")
    link(tmp_path / "last.pt", tmp_path / "best.pt")
    assert (tmp_path / "best.pt").samefile(tmp_path / "last.pt")
    assert {path.name for path in tmp_path.iterdir()} == {"last.pt", "best.pt"}


def test_without_links_the_bytes_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(source: Path, target: Path) -> None:
        raise OSError("Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "last.pt").write_bytes(b"new")
    link(tmp_path / "last.pt", tmp_path / "best.pt")
    assert (tmp_path / "best.pt").read_bytes() == b"new"
    assert not (tmp_path / "best.pt").samefile(tmp_path / "last.pt")
    assert {path.name for path in tmp_path.iterdir()} == {"last.pt", "best.pt"}
