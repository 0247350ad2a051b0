"""A run that is killed and resumed ends as one that never was: the real command, really killed."""

import json
import math
import os
import random
import shutil
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


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing interrupts."""
    cwd = tmp_path_factory.mktemp("whole")
    assert run_jobs([{"arguments": [*RUN, "hydra.run.dir=whole"]}], cwd) == [0]
    return cwd / "whole"


def killed_and_resumed(kill: dict[str, Any], name: str, *more: str) -> list[dict[str, Any]]:
    return [
        {"arguments": [*RUN, f"hydra.run.dir={name}", *more], "kill": kill},
        {"arguments": [f"resume={name}"]},
    ]


@pytest.mark.parametrize(
    "place", [*PLACES[::3], *(pytest.param(place, marks=pytest.mark.slow) for place in PLACES[1:3])]
)
def test_a_run_that_is_killed_inside_a_save_goes_on_to_the_bit(tmp_path: Path, whole: Path, place: str):
    """The first four files that are flushed to the disk hold config and metrics; the fifth is a checkpoint."""
    kill = {"at": place, "count": 1 if place != "before fsync" else 5}
    assert run_jobs(killed_and_resumed(kill, "run"), tmp_path) == [-9, 0]
    assert_identical(tmp_path / "run", whole)


HYDRA_FILES = ["config.yaml", "hydra.yaml", "overrides.yaml"]
SMALL = [*RUN, "trainer.epochs=2", "model.hidden_dims=[8]"]


def kill_and_recover(kills: Sequence[dict[str, Any]], command: list[str], cwd: Path) -> list[int]:
    """Kill a run for each of `kills`, and give the command again or, where it is refused, resume.

    Returns:
        The positions in `kills` of the runs that were killed; the others ended before.
    """
    assert run_jobs([{"arguments": [*command, "hydra.run.dir=expected"]}], cwd) == [0]
    commands = [[*command, f"hydra.run.dir=run{number}"] for number in range(len(kills))]
    jobs = [{"arguments": each, "kill": kill} for each, kill in zip(commands, kills, strict=True)]
    killed = [number for number, status in enumerate(run_jobs(jobs, cwd, timeout=900)) if status == -9]
    again = run_jobs([{"arguments": commands[number]} for number in killed], cwd, timeout=900)
    refused = [number for number, status in zip(killed, again, strict=True) if status]
    resumed = run_jobs([{"arguments": [f"resume=run{number}"]} for number in refused], cwd, timeout=900)
    assert resumed == [0] * len(refused)
    for number in killed:
        run = cwd / f"run{number}"
        assert_identical(run, cwd / "expected")
        assert sorted(path.name for path in (run / ".hydra").iterdir()) == HYDRA_FILES
        assert not list(run.rglob("*.tmp"))
    return killed


def file_operations(counts: Iterable[int]) -> list[dict[str, Any]]:
    return [{"at": "file operation", "count": count} for count in counts]


def test_a_run_that_is_killed_while_it_starts_is_started_or_resumed(tmp_path: Path):
    """Only the lock is there; the config is half written; it is whole."""
    assert kill_and_recover(file_operations((8, 20, 24)), SMALL, tmp_path) == [0, 1, 2]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_that_is_killed_at_any_file_operation_is_started_or_resumed(tmp_path: Path):
    killed = kill_and_recover(file_operations(range(1, 61)), SMALL, tmp_path)
    assert 40 < len(killed) < 60  # the end of the run is reached
    assert killed == list(range(len(killed)))


@pytest.mark.slow
def test_a_run_that_is_killed_at_any_moment_is_started_or_resumed(tmp_path: Path):
    moments = random.Random(0)
    kills: list[dict[str, Any]] = [{"after_seconds": moments.uniform(0, 0.6)} for _ in range(12)]
    kills += [{"at": moments.choice(PLACES), "count": moments.randint(1, 5)} for _ in range(8)]
    assert len(kill_and_recover(kills, [*RUN], tmp_path)) >= 15  # a late one may come after the end


@pytest.mark.slow
def test_a_run_that_is_killed_twice_goes_on_to_the_bit(tmp_path: Path, whole: Path):
    first, last = killed_and_resumed({"after_seconds": 0.15}, "run")
    again = {"arguments": ["resume=run"], "kill": {"after_seconds": 0.15}}
    statuses = run_jobs([first, again, last], tmp_path)
    assert statuses[-1] == 0
    assert statuses[0] == -9
    assert_identical(tmp_path / "run", whole)


def test_more_epochs_can_be_asked_for_on_resume(tmp_path: Path, whole: Path):
    short = [*RUN, "trainer.epochs=3", "hydra.run.dir=run"]
    longer = ["resume=run", f"trainer.epochs={EPOCHS}"]
    assert run_jobs([{"arguments": short}, {"arguments": longer}], tmp_path) == [0, 0]
    last = [torch.load(run / "checkpoints/last.pt", weights_only=True) for run in (tmp_path / "run", whole)]
    assert same(last[0]["vae"], last[1]["vae"])
    assert metrics(tmp_path / "run") == metrics(whole)
    assert f"epochs: {EPOCHS}" in (tmp_path / "run" / ".hydra" / "config.yaml").read_text()


def test_a_schedule_that_follows_the_epochs_is_planned_anew_when_they_are_raised(tmp_path: Path):
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


def test_what_resume_refuses(tmp_path: Path, whole: Path, command, monkeypatch: pytest.MonkeyPatch):
    refused = command("train", f"resume={whole}", "model.latent_dim=3")
    assert refused.code == 1
    assert "model.latent_dim=3 cannot be changed on resume" in refused.err
    refused = command("train", f"resume={whole}", "trainer.epochs=2")
    assert "trainer.epochs=2 is less than the 8 epochs" in refused.err
    refused = command("train", "resume=nowhere")
    assert "resume=" in refused.err
    assert "nowhere holds no run" in refused.err
    assert not (tmp_path / "nowhere").exists()
    refused = command("train", "--multirun", f"resume={whole}", "seed=0,1")
    assert "leave out --multirun" in refused.err


def test_a_damaged_checkpoint_is_refused_and_the_other_one_offered(tmp_path: Path, whole: Path, command):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    last = run / "checkpoints" / "last.pt"
    last.write_bytes(last.read_bytes()[:5000])
    before = (run / "metrics.jsonl").read_bytes()
    refused = command("train", f"resume={run}", "trainer.epochs=9")
    assert refused.code == 1
    assert f"{last} is not a whole checkpoint" in refused.err
    offered = f"resume={run / 'checkpoints' / 'best.pt'}"
    assert offered in refused.err
    assert (run / "metrics.jsonl").read_bytes() == before
    assert (run / "result.json").exists()
    resumed = command("train", offered)
    assert resumed.code == 0, resumed.err
    assert metrics(run) == metrics(whole)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state | {"format": 99}, "a newer version of vae_exp wrote it"),
        (lambda state: state | {"vae": {"encoder.other": torch.zeros(2)}}, "does not fit the run"),
        (lambda state: {"format": 1, "vae": state["vae"], "epoch": 8}, "can be evaluated, not resumed"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path, whole: Path, command, change, said: str):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    last = run / "checkpoints" / "last.pt"
    torch.save(change(torch.load(last, weights_only=True)), last)
    refused = command("train", f"resume={run}", "trainer.epochs=9")
    assert refused.code == 1
    assert said in refused.err
    assert str(last) in refused.err
    assert "Traceback" not in refused.err
