"""Scores in the summary of a run's W&B run: what a further segment says, and what it leaves as it was."""

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from errno import ENOSPC
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb
from filelock import FileLock

from tests.dashboard.records import make_run, summary_record
from tests.tracking.wandb_server import WandbServer, serve
from tests.wandb_records import runs
from vae_exp.dashboard.runs.store import RunStore
from vae_exp.errors import UserError
from vae_exp.storage.run_directory import RunDirectory
from vae_exp.tracking.offline_runs import TrackedRun
from vae_exp.tracking.run_summary import _read_segments, add_to_summary

ROWS = [{"val/elbo": -3.0}, {"val/elbo": -2.0}]


@pytest.fixture
def tracked(tmp_path: Path) -> Callable[..., RunDirectory]:
    """A run directory, and the offline segment of its W&B run."""

    def make(exit_code: int | None = 0, more: tuple[bytes, ...] = (), **settings: Any) -> RunDirectory:
        directory = RunDirectory(tmp_path / "run")
        config = {"seed": 3, "run_directory": str(directory.path)}
        status = summary_record({"status": "completed", "best/epoch": 2, "_wandb": {"runtime": 40}})
        file = make_run(
            tmp_path, "0123abcd", config, ROWS, exit_code, more=(status, *more), project="mine",
            run_group="sweep", display_name="a run", job_type="sweep", tags=["one"], **settings,
        )  # fmt: skip
        directory.path.mkdir()
        description = {"mode": "offline", "run_id": "0123abcd", "directory": str(file.parent), "error": None}
        directory.wandb.write_text(json.dumps(description))
        return directory

    return make


def _records(root: Path) -> list[dict[str, Any]]:
    """The records of each segment, by kind."""
    return [{record.WhichOneof("record_type"): record for record in segment} for segment in runs(root)]


def _summary(records: dict[str, Any]) -> dict[str, Any]:
    items = records["summary"].summary.update
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def test_a_segment_has_the_identity_the_state_and_the_summary_of_the_run(tracked, tmp_path: Path):
    assert "offline: " in str(add_to_summary(tracked(exit_code=1), {"test/nll": 2.5, "test/odd": float("nan")}))
    first, second = _records(tmp_path)
    assert set(second) == {"run", "summary", "exit"}
    run = second["run"].run
    for name in ("run_id", "project", "run_group", "display_name", "job_type", "tags"):
        assert getattr(run, name) == getattr(first["run"].run, name)
    assert [item.key for item in run.config.update] == ["run_directory"]
    assert run.start_time.seconds > first["run"].run.start_time.seconds
    assert second["exit"].exit.exit_code == 1
    assert _summary(second) == {
        "epoch": 2, "_runtime": 1.0, "val/elbo": -2.0, "status": "completed", "best/epoch": 2,
        "_wandb": {"runtime": 40}, "test/nll": 2.5, "test/odd": "nan",
    }  # fmt: skip


def test_segments_of_one_second_keep_their_order_and_add_up(tracked, tmp_path: Path, monkeypatch):
    directory = tracked(exit_code=None)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    for split in ("test", "val"):
        add_to_summary(directory, {f"{split}/nll": 2.5})
    names = sorted(path.name for path in (tmp_path / "wandb").iterdir())
    times = [datetime.strptime(name[12:27], "%Y%m%d_%H%M%S").replace(tzinfo=UTC) for name in names]
    assert [(after - times[0]).total_seconds() for after in times] == [0, 1, 2]
    assert "exit" not in _records(tmp_path)[-1]
    assert {"test/nll", "val/nll", "val/elbo"} <= set(_summary(_records(tmp_path)[-1]))


def test_the_dashboard_shows_the_scores_of_the_same_run(tracked, tmp_path: Path):
    directory = tracked()
    add_to_summary(directory, {"test/nll": 2.5})
    store = RunStore([tmp_path])
    while store.refresh():
        pass
    [run] = store.runs.values()
    assert (run.state, run.info.name, run.config["seed"], len(run.segments)) == ("finished", "a run", 3, 2)
    assert (run.summary["test/nll"], run.summary["val/elbo"]) == (2.5, -2.0)
    assert list(run.series("val/elbo")[1]) == [-3.0, -2.0]


def test_a_run_without_wandb_stays_without(tmp_path: Path, tracked, monkeypatch):
    (tmp_path / "other").mkdir()
    assert add_to_summary(RunDirectory(tmp_path / "other"), {"test/nll": 2.5}) is None
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert add_to_summary(tracked(), {"test/nll": 2.5}) is None
    assert len(runs(tmp_path)) == 1


def test_a_run_that_was_resumed_without_wandb_adds_nothing(tracked, tmp_path: Path):
    directory = tracked()
    directory.config.parent.mkdir()
    directory.config.write_text("tracker: {mode: none}\n")
    assert add_to_summary(directory, {"test/nll": 2.5}) is None
    assert len(runs(tmp_path)) == 1
    directory.config.write_text("tracker: {mode: offline}\n")
    assert add_to_summary(directory, {"test/nll": 2.5})


def test_what_cannot_be_added_says_why(tracked, tmp_path: Path):
    directory = tracked()
    with FileLock(directory.lock), pytest.raises(UserError, match="still being trained"):
        add_to_summary(directory, {"test/nll": 2.5})
    (tmp_path / "wandb").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"there is no segment \*run-\*-0123abcd in "):
        add_to_summary(directory, {"test/nll": 2.5})


def test_a_directory_that_names_the_wandb_run_of_another_is_refused(tracked, tmp_path: Path, monkeypatch):
    directory = tracked()
    directory.path.rename(tmp_path / "other")
    with pytest.raises(UserError, match=r"is of the run in .*/run, not"):
        add_to_summary(RunDirectory(tmp_path / "other"), {"test/nll": 2.5})
    (tmp_path / "moved").mkdir()
    moved = RunDirectory((tmp_path / "other").rename(tmp_path / "moved" / "run"))
    assert "offline: " in str(add_to_summary(moved, {"test/nll": 2.5}))
    _put_online(tmp_path)
    monkeypatch.setattr("wandb.init", lambda **_: pytest.fail("another run is resumed"))
    with pytest.raises(UserError, match=r"is of the run in .*/run, not of .*moved/run: evaluate it where"):
        add_to_summary(moved, {"test/nll": 2.5})


def _put_online(root: Path) -> None:
    for segment in (root / "wandb").glob("offline-*"):
        segment.rename(segment.with_name(segment.name.removeprefix("offline-")))


def test_additions_at_once_are_all_kept(tracked, tmp_path: Path):
    directory = tracked()
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda split: add_to_summary(directory, {f"{split}/nll": 2.5}), "abcd"))
    assert {f"{split}/nll" for split in "abcd"} <= set(_summary(_records(tmp_path)[-1]))


def test_a_segment_that_cannot_be_written_leaves_nothing(tracked, tmp_path: Path, monkeypatch):
    directory = tracked()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(ENOSPC, "No space left")))
    with pytest.raises(OSError, match="No space left"):
        add_to_summary(directory, {"test/nll": 2.5})
    assert len(list((tmp_path / "wandb").iterdir())) == 1


def test_scores_are_sent_from_ones_own_folder_alone(tracked, tmp_path: Path, monkeypatch):
    directory = tracked()
    _put_online(tmp_path)
    monkeypatch.setattr("wandb.init", lambda **_: pytest.fail("a run of another folder is resumed"))
    monkeypatch.chdir(directory.path)
    with pytest.raises(UserError, match=f"set WANDB_DIR={tmp_path}, or WANDB_MODE=offline"):
        add_to_summary(directory, {"test/nll": 2.5})


@pytest.mark.slow
def test_scores_are_added_to_an_online_run_as_often_as_wanted(tracked, tmp_path: Path, monkeypatch):
    directory = tracked()
    _put_online(tmp_path)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    with serve(WandbServer([])) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        wandb.teardown()  # it may have read another environment
        for split in ("test", "val"):
            assert str(add_to_summary(directory, {f"{split}/nll": 2.5})).endswith("0123abcd, online.")
            time.sleep(1.1)  # the names of segments have seconds
        wandb.teardown()
    assert {("test/nll",), ("val/nll",)} <= set(_read_segments(TrackedRun.read(directory)).summary)
    assert server.runs["0123abcd"].config["run_directory"] == str(directory.path)
    assert server.runs["0123abcd"].summary["val/nll"] == 2.5


def test_an_online_run_is_resumed(tracked, tmp_path: Path, monkeypatch):
    directory = tracked(exit_code=3)
    _put_online(tmp_path)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    ends: list[int] = []
    run = SimpleNamespace(id="0123abcd", summary={}, finish=lambda **end: ends.append(end["exit_code"]))
    run.define_metric = lambda *names, **options: None
    started: dict[str, Any] = {}
    monkeypatch.setattr("wandb.login", lambda **_: True)
    monkeypatch.setattr("wandb.init", lambda **arguments: started.update(arguments) or run)
    assert str(add_to_summary(directory, {"test/nll": 2.5})).endswith("0123abcd, online.")
    assert (run.summary, ends) == ({"test/nll": 2.5}, [3])
    assert [started[name] for name in ("id", "resume", "mode", "project", "name")] == [
        "0123abcd", "allow", "online", "mine", "a run",
    ]  # fmt: skip
    assert started["config"] == {"run_directory": str(directory.path)}
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert "offline: " in str(add_to_summary(directory, {"test/nll": 2.0}))
    assert _summary(_records(tmp_path)[0])["test/nll"] == 2.0
