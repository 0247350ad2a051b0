"""A run that is killed and resumed ends as one that never was: the real command, really killed."""

import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.readers import read_metrics, read_result, without_times

KILLING = Path(__file__).with_name("killing.py")
RUN = (
    "data=digits", "trainer.epochs=4", "tracker=none", "evaluator=[elbo]", "evaluator.elbo.every_n_epochs=3",
    "scheduler=step", "scheduler.step_size=3", "trainer.ema_decay=0.9", "trainer.max_grad_norm=500",
    "trainer.device=cpu", "checkpoint.every_n_epochs=1", "model.hidden_dims=[8]",
)  # fmt: skip
LONG = [*RUN, "trainer.epochs=8", "model.hidden_dims=[500]"]  # long enough to be killed at a moment
SHORT = [*RUN, "trainer.epochs=2"]
PLACES = ("half written", "before fsync", "before rename", "after rename")


def run_jobs(jobs: list[dict[str, Any]], cwd: Path, timeout: float = 280) -> list[int]:
    """Run commands one after another; their exit statuses."""
    ended = subprocess.run(
        [sys.executable, str(KILLING)],
        input=json.dumps(jobs),
        cwd=cwd,
        env={**os.environ, "PYTHONWARNINGS": "default"},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (cwd / "output.txt").write_text(ended.stdout + ended.stderr)
    statuses: list[int] = json.loads(ended.stdout.splitlines()[-1])
    return statuses


def metrics(run: Path) -> list[dict[str, float]]:
    """The rows of a run without times."""
    return [without_times(row) for row in read_metrics(run)]


def same(one: Any, other: Any) -> bool:
    """Equality to the bit, of everything but times."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        times = [key for key in one.keys() | other.keys() if str(key).startswith("time/")] + ["seconds"]
        keys = (one.keys() | other.keys()) - set(times)
        return all(key in one and key in other and same(one[key], other[key]) for key in keys)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def assert_identical(run: Path, whole: Path) -> None:
    assert metrics(run) == metrics(whole)
    for name in ("last", "best"):
        states = [torch.load(each / "checkpoints" / f"{name}.pt", weights_only=True) for each in (run, whole)]
        assert same(*states), name
    results = [read_result(each) for each in (run, whole)]
    for key in ("status", "epochs", "steps", "best", "stopped_early"):
        assert results[0][key] == results[1][key]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best.pt", "last.pt"]


HYDRA_FILES = ["config.yaml", "hydra.yaml", "overrides.yaml"]


def kill_and_recover(
    kills: Sequence[dict[str, Any]], command: Sequence[str], cwd: Path, jobs: Sequence[dict[str, Any]] = ()
) -> list[int]:
    """Kill a run for each of `kills`, and give the command again or, where it is refused, resume; then run `jobs`.

    Returns:
        The positions in `kills` of the runs that were killed; the others ended before.
    """
    all_jobs: list[dict[str, Any]] = [{"arguments": [*command, "hydra.run.dir=expected"]}]
    for number, kill in enumerate(kills):
        again = [*command, f"hydra.run.dir=run{number}"]
        all_jobs.append({"arguments": again, "kill": kill, "recover": [again, [f"resume=run{number}"]]})
    statuses = run_jobs([*all_jobs, *jobs], cwd, timeout=1800)
    assert statuses[0] == 0
    assert set(statuses) <= {0, -9}
    for number in range(len(kills)):
        run = cwd / f"run{number}"
        assert_identical(run, cwd / "expected")
        assert sorted(path.name for path in (run / ".hydra").iterdir()) == HYDRA_FILES
        assert not list(run.rglob("*.tmp"))
    return [number for number, status in enumerate(statuses[1 : len(all_jobs)]) if status]


def file_operations(counts: Iterable[int]) -> list[dict[str, Any]]:
    return [{"at": "file operation", "count": count} for count in counts]


@pytest.mark.slow
def test_a_run_that_is_killed_inside_a_save_continues_to_the_bit(tmp_path: Path):
    assert kill_and_recover([{"at": "half written", "count": 1}], RUN, tmp_path) == [0]


@pytest.mark.slow
def test_a_schedule_is_planned_again_for_more_epochs_also_after_a_kill(tmp_path: Path):
    run = ["data=digits", "scheduler=cosine", "tracker=none", "evaluator=[]", "trainer.epochs=2"]
    longer = {"arguments": ["resume=planned", "trainer.epochs=5"], "kill": {"at": "half written", "count": 1}}
    planned = [{"arguments": [*run, "hydra.run.dir=planned", "checkpoint.every_n_epochs=1"]}, longer]
    planned += [{"arguments": ["resume=planned"]}]
    assert kill_and_recover([{"at": "after rename", "count": 1}], RUN, tmp_path, planned) == [0]
    expected = [0.0005 * (1 + math.cos(math.pi * epoch / 5)) for epoch in range(5)]
    rates = [line["train/learning_rate"] for line in metrics(tmp_path / "planned")]
    assert rates == pytest.approx([0.001, 0.0005, *expected[2:]], rel=1e-6)


def test_a_run_that_is_continued_to_more_epochs_is_the_same(command, tmp_path: Path):
    for arguments in ([*RUN, "hydra.run.dir=whole"], [*SHORT, "hydra.run.dir=short"], ["resume=short", RUN[1]]):
        finished = command("train", *arguments)
        assert finished.code == 0, finished.err
    states = [
        torch.load(tmp_path / name / "checkpoints/last.pt", weights_only=True) for name in ("short", "whole")
    ]
    assert same(states[0]["vae"], states[1]["vae"])
    assert metrics(tmp_path / "short") == metrics(tmp_path / "whole")
    assert "epochs: 4" in (tmp_path / "short" / ".hydra" / "config.yaml").read_text()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_that_is_killed_at_any_file_operation_is_started_or_resumed(tmp_path: Path):
    killed = kill_and_recover(file_operations(range(1, 71)), SHORT, tmp_path)
    assert 40 < len(killed) < 70  # the end of the run is reached
    assert killed == list(range(len(killed)))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_that_is_killed_at_any_moment_is_started_or_resumed(tmp_path: Path):
    moments = random.Random(0)
    kills: list[dict[str, Any]] = [{"after_seconds": moments.uniform(0, 0.6)} for _ in range(12)]
    kills += [{"at": moments.choice(PLACES), "count": moments.randint(1, 5)} for _ in range(8)]
    assert len(kill_and_recover(kills, LONG, tmp_path)) >= 15  # a late one may come after the end


@pytest.mark.slow
def test_a_run_that_is_killed_twice_continues_to_the_bit(tmp_path: Path):
    kill = {"after_seconds": 0.15}
    jobs = [{"arguments": [*LONG, f"hydra.run.dir={name}"]} for name in ("whole", "run")]
    jobs[1]["kill"] = kill
    jobs += [{"arguments": ["resume=run"], "kill": kill}, {"arguments": ["resume=run"]}]
    statuses = run_jobs(jobs, tmp_path)
    assert (statuses[:2], statuses[-1]) == ([0, -9], 0)
    assert_identical(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_a_run_that_is_killed_before_its_checkpoint_has_its_name_continues_to_the_bit(tmp_path: Path):
    """The first four files that are flushed to the disk hold config and metrics; the fifth is a checkpoint."""
    kills = [{"at": "before fsync", "count": 5}, {"at": "before rename", "count": 1}]
    assert kill_and_recover(kills, RUN, tmp_path) == [0, 1]
