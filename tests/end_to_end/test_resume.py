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
EPOCHS = 8
RUN = (
    "data=digits", f"trainer.epochs={EPOCHS}", "tracker=none", "evaluator=[elbo]",
    "evaluator.elbo.every_n_epochs=3",
    "scheduler=step", "scheduler.step_size=3", "trainer.ema_decay=0.9", "trainer.max_grad_norm=500",
    "trainer.device=cpu", "checkpoint.every_n_epochs=1",
)  # fmt: skip
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


def killed_and_resumed(kill: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [{"arguments": [*RUN, f"hydra.run.dir={name}"], "kill": kill}, {"arguments": [f"resume={name}"]}]


@pytest.mark.parametrize("places", [PLACES[::3], pytest.param(PLACES[1:3], marks=pytest.mark.slow)])
def test_a_run_that_is_killed_inside_a_save_continues_to_the_bit(tmp_path: Path, places: tuple[str, ...]):
    """The first four files that are flushed to the disk hold config and metrics; the fifth is a checkpoint.

    A run that is continued to more epochs is the same as well.
    """
    kills = [{"at": place, "count": 1 if place != "before fsync" else 5} for place in places]
    short, longer = [*RUN, "trainer.epochs=3", "hydra.run.dir=short"], ["resume=short", f"trainer.epochs={EPOCHS}"]
    jobs: list[dict[str, Any]] = [{"arguments": args} for args in ([*RUN, "hydra.run.dir=whole"], short, longer)]
    jobs += [job for place, kill in zip(places, kills, strict=True) for job in killed_and_resumed(kill, place)]
    assert run_jobs(jobs, tmp_path) == [0, 0, 0, *[-9, 0] * len(places)]
    whole = tmp_path / "whole"
    for place in places:
        assert_identical(tmp_path / place, whole)
    last = [torch.load(tmp_path / name / "checkpoints/last.pt", weights_only=True) for name in ("short", "whole")]
    assert same(last[0]["vae"], last[1]["vae"])
    assert metrics(tmp_path / "short") == metrics(whole)
    assert f"epochs: {EPOCHS}" in (tmp_path / "short" / ".hydra" / "config.yaml").read_text()


HYDRA_FILES = ["config.yaml", "hydra.yaml", "overrides.yaml"]
SMALL = [*RUN, "trainer.epochs=2", "model.hidden_dims=[8]"]


def kill_and_recover(kills: Sequence[dict[str, Any]], command: list[str], cwd: Path) -> list[int]:
    """Kill a run for each of `kills`, and give the command again or, where it is refused, resume.

    Returns:
        The positions in `kills` of the runs that were killed; the others ended before.
    """
    jobs: list[dict[str, Any]] = [{"arguments": [*command, "hydra.run.dir=expected"]}]
    for number, kill in enumerate(kills):
        again = [*command, f"hydra.run.dir=run{number}"]
        jobs.append({"arguments": again, "kill": kill, "recover": [again, [f"resume=run{number}"]]})
    statuses = run_jobs(jobs, cwd, timeout=1800)
    assert statuses[0] == 0
    assert set(statuses) <= {0, -9}
    for number in range(len(kills)):
        run = cwd / f"run{number}"
        assert_identical(run, cwd / "expected")
        assert sorted(path.name for path in (run / ".hydra").iterdir()) == HYDRA_FILES
        assert not list(run.rglob("*.tmp"))
    return [number for number, status in enumerate(statuses[1:]) if status]


def file_operations(counts: Iterable[int]) -> list[dict[str, Any]]:
    return [{"at": "file operation", "count": count} for count in counts]


def test_a_run_that_is_killed_while_it_starts_is_started_or_resumed(tmp_path: Path):
    """Only the lock is there; the config is half written; it is whole."""
    assert kill_and_recover(file_operations((8, 20, 24)), SMALL, tmp_path) == [0, 1, 2]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_that_is_killed_at_any_file_operation_is_started_or_resumed(tmp_path: Path):
    killed = kill_and_recover(file_operations(range(1, 71)), SMALL, tmp_path)
    assert 40 < len(killed) < 70  # the end of the run is reached
    assert killed == list(range(len(killed)))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_that_is_killed_at_any_moment_is_started_or_resumed(tmp_path: Path):
    moments = random.Random(0)
    kills: list[dict[str, Any]] = [{"after_seconds": moments.uniform(0, 0.6)} for _ in range(12)]
    kills += [{"at": moments.choice(PLACES), "count": moments.randint(1, 5)} for _ in range(8)]
    assert len(kill_and_recover(kills, [*RUN], tmp_path)) >= 15  # a late one may come after the end


@pytest.mark.slow
def test_a_run_that_is_killed_twice_continues_to_the_bit(tmp_path: Path):
    first, last = killed_and_resumed({"after_seconds": 0.15}, "run")
    again = {"arguments": ["resume=run"], "kill": {"after_seconds": 0.15}}
    statuses = run_jobs([{"arguments": [*RUN, "hydra.run.dir=whole"]}, first, again, last], tmp_path)
    assert (statuses[:2], statuses[-1]) == ([0, -9], 0)
    assert_identical(tmp_path / "run", tmp_path / "whole")


def test_a_schedule_that_follows_the_epochs_is_planned_again_when_they_are_raised(tmp_path: Path):
    run = [
        "data=digits",
        "scheduler=cosine",
        "tracker=none",
        "evaluator=[]",
        "hydra.run.dir=run",
        "trainer.epochs=2",
        "checkpoint.every_n_epochs=1",
    ]
    longer = ["resume=run", "trainer.epochs=5"]
    killed = {"arguments": longer, "kill": {"at": "half written", "count": 1}}
    assert run_jobs([{"arguments": run}, killed, {"arguments": ["resume=run"]}], tmp_path) == [0, -9, 0]
    planned = [0.0005 * (1 + math.cos(math.pi * epoch / 5)) for epoch in range(5)]
    used = [line["train/learning_rate"] for line in metrics(tmp_path / "run")]
    assert used == pytest.approx([0.001, 0.0005, *planned[2:]], rel=1e-6)


def test_what_resume_refuses(tmp_path: Path, digits_run: Path, command):
    for arguments, reason in (
        ([f"resume={digits_run}", "model.latent_dim=3"], "model.latent_dim=3 cannot be changed on resume"),
        ([f"resume={digits_run}", "trainer.epochs=2"], "trainer.epochs=2 is less than the 3 epochs"),
        (["resume=nowhere"], "nowhere holds no run"),
        (["--multirun", f"resume={digits_run}", "seed=0,1"], "leave out --multirun"),
    ):
        refused = command("train", *arguments)
        assert refused.code == 1
        assert reason in refused.err
    assert not (tmp_path / "nowhere").exists()


def test_a_damaged_checkpoint_is_refused_and_the_other_one_offered(copied_run: Path, digits_run: Path, command):
    last = copied_run / "checkpoints" / "last.pt"
    last.write_bytes(last.read_bytes()[:5000])
    before = (copied_run / "metrics.jsonl").read_bytes()
    refused = command("train", f"resume={copied_run}", "trainer.epochs=9")
    assert refused.code == 1
    assert f"{last} is not a whole checkpoint" in refused.err
    offered = f"resume={copied_run / 'checkpoints' / 'best.pt'}"
    assert offered in refused.err
    assert (copied_run / "metrics.jsonl").read_bytes() == before
    assert (copied_run / "result.json").exists()
    resumed = command("train", offered)
    assert resumed.code == 0, resumed.err
    assert metrics(copied_run) == metrics(digits_run)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda state: state | {"format": 99}, "a newer version of vae_exp wrote it"),
        (lambda state: state | {"vae": {"encoder.other": torch.zeros(2)}}, "does not fit the run"),
        (lambda state: {"format": 1, "vae": state["vae"], "epoch": 3}, "can be evaluated, not resumed"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(copied_run: Path, command, change, reason: str):
    last = copied_run / "checkpoints" / "last.pt"
    torch.save(change(torch.load(last, weights_only=True)), last)
    refused = command("train", f"resume={copied_run}", "trainer.epochs=9")
    assert refused.code == 1
    assert reason in refused.err
    assert str(last) in refused.err
    assert "Traceback" not in refused.err
