import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb
from matplotlib.figure import Figure

from tests.wandb_records import read_records
from vae_exp.dashboard.runs.store import RunStore
from vae_exp.tracking.wandb_tracker import WandbTracker

CONFIG = {"seed": 3, "model": {"latent_dim": 2}}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder and a working directory of its own: W&B finds no account and litters nowhere else."""
    home, cwd = tmp_path / "home", tmp_path / "cwd"
    home.mkdir()
    cwd.mkdir()
    for name in [name for name in os.environ if name.startswith(("WANDB_", "XDG_")) or name == "NETRC"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.chdir(cwd)
    return home


NAMES = {"group": None, "job_type": "train", "name": "a run"}


def _tracker(root: Path, mode: str = "offline", **arguments: Any) -> WandbTracker:
    settings = {"project": "tests", "group": None, "name": "a run", "tags": [], "config": CONFIG}
    return WandbTracker(mode=mode, root=root, **settings | arguments)


# Offline, with W&B itself


def _of_kind(kind: str, path: Path) -> list[Any]:
    return [getattr(record, kind) for record in read_records(path) if record.WhichOneof("record_type") == kind]


def _await(condition: Callable[[], bool]) -> None:
    """Wait until it holds, as short as may be: W&B flushes its file a little after `finish` has returned."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "waited for half a minute"
        time.sleep(0.01)


def _file(root: Path, tracker: WandbTracker) -> Path:
    """The one file of a tracker's run, which is named by its id."""
    [path] = root.glob(f"wandb/offline-run-*/run-{tracker.description['run_id']}.wandb")
    return path


def _finished(root: Path, tracker: WandbTracker, exit_code: int = 0) -> Path:
    """Finish, and wait for the file to be whole."""
    tracker.finish(exit_code, {"status": "completed"})
    path = _file(root, tracker)
    _await(lambda: bool(_of_kind("exit", path)))
    return path


def _history(path: Path) -> list[dict[str, Any]]:
    """What was logged, by step."""
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in history.item}
        for history in _of_kind("history", path)
    ]


@pytest.mark.parametrize("exit_code", [0, 130])
def test_an_offline_run_holds_all_that_was_logged(tmp_path: Path, home: Path, exit_code: int):
    root, picture = tmp_path / "root", tmp_path / "samples.png"
    Figure(figsize=(1, 1)).savefig(picture)
    tracker = _tracker(root, group="a sweep", tags=["one", "two"])
    tracker.log({"train/loss": 2.5}, step=600)
    tracker.log_lists({"val/unit_rates": [0.5, 2.0]}, step=1200)
    tracker.log({"train/loss": 1.5}, step=1200)
    tracker.log({"val/nll": 1.25}, step=1200)
    tracker.log_figures({"samples": picture}, step=1800)
    tracker.warn("posterior collapse", "epoch 4: the rate is 0.01")
    tracker.warn("dead units", "epoch 9: 2 of 8")
    path = _finished(root, tracker, exit_code)
    run_id = tracker.run_id
    record = {"mode": "offline", "run_id": run_id, "directory": str(path.parent), "error": None}
    assert tracker.description == {**record, **NAMES, "group": "a sweep"}
    [run] = _of_kind("run", path)
    assert (run.project, run.run_group, run.display_name, run.run_id) == ("tests", "a sweep", "a run", run_id)
    assert (run.job_type, sorted(run.tags)) == ("train", ["one", "two"])
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert {key: value for key, value in config.items() if key != "_wandb"} == CONFIG
    *numbers, figures = _history(path)
    assert [{name: row[name] for name in row if name not in ("_runtime", "_timestamp")} for row in numbers] == [
        {"_step": 600, "epoch": 0, "train/loss": 2.5},
        {"_step": 1200, "epoch": 0, "val/unit_rates": [0.5, 2.0], "train/loss": 1.5, "val/nll": 1.25},
    ]
    [image] = path.parent.glob("files/media/images/figures/samples_*.png")
    assert (figures["_step"], image.read_bytes()) == (1800, picture.read_bytes())
    assert [(alert.title, alert.text) for alert in _of_kind("alert", path)] == [
        ("posterior collapse", "epoch 4: the rate is 0.01"),
        ("dead units", "epoch 9: 2 of 8"),
    ]
    assert [end.exit_code for end in _of_kind("exit", path)] == [exit_code]
    summary = [(item.key, item.value_json) for change in _of_kind("summary", path) for item in change.update]
    assert ("status", '"completed"') in summary
    assert list((tmp_path / "cwd").iterdir()) == []
    assert not list(home.rglob("*.wandb"))


def test_epoch_is_the_x_axis_of_every_row(tmp_path: Path):
    """Of what a resumed run draws before it has logged an epoch too."""
    tracker = WandbTracker("offline", tmp_path, "tests", None, "a run", [], CONFIG, "0123abcd", epoch=3)
    tracker.log_lists({"val/unit_rates": [0.5, 2.0]}, step=600)
    tracker.log({"epoch": 4, "train/loss": 2.5}, step=800)
    tracker.log_lists({"val/unit_rates": [0.5, 2.0]}, step=1000)
    path = _finished(tmp_path, tracker)
    axes = [(metric.name or metric.glob_name, metric.step_metric) for metric in _of_kind("metric", path)]
    assert axes == [("epoch", ""), ("*", "epoch")]
    assert [(row["_step"], row["epoch"]) for row in _history(path)] == [(600, 3), (800, 4), (1000, 4)]
    store = RunStore([tmp_path])
    while store.refresh():
        pass
    [shown] = store.runs.values()
    assert list(shown.series("epoch")[1]) == [3, 4, 4]


def test_what_the_config_leaves_open_is_not_read_from_the_environment(tmp_path: Path, monkeypatch):
    """As it may be another one when a run is resumed; the config has taken what it wants of it."""
    for name in ("ENTITY", "RUN_GROUP", "NOTES", "TAGS", "PROJECT", "NAME", "DIR"):
        monkeypatch.setenv(f"WANDB_{name}", "other")
    monkeypatch.setenv("WANDB_MODE", "online")
    wandb.teardown()  # it has read the environment already
    [run] = _of_kind("run", _finished(tmp_path, _tracker(tmp_path)))
    wandb.teardown()
    assert (run.entity, run.run_group, run.notes, list(run.tags)) == ("", "", "", [])
    assert (run.project, run.display_name) == ("tests", "a run")


def test_entity_and_notes_are_those_of_the_run(tmp_path: Path):
    [run] = _of_kind("run", _finished(tmp_path, _tracker(tmp_path, entity="team", notes="why")))
    assert (run.entity, run.notes) == ("team", "why")


def test_a_run_that_was_never_finished_does_not_swallow_the_next(tmp_path: Path):
    first = _tracker(tmp_path / "root")
    first.log({"value": 1.0}, step=1)
    second = _tracker(tmp_path / "root")
    second.log({"value": 2.0}, step=1)
    paths = [_finished(tmp_path / "root", tracker) for tracker in (second, first)]
    assert [[line["value"] for line in _history(path)] for path in paths] == [[2.0], [1.0]]
    assert (first.error, second.error) == (None, None)


def test_the_numbers_of_a_run_that_is_still_going_reach_the_disk(tmp_path: Path):
    """W&B alone would wait for 15 seconds or 32 KiB."""
    tracker = _tracker(tmp_path / "root")
    tracker.log({"value": 1.0}, step=1)
    tracker.log({"value": 2.0}, step=2)
    path, began = _file(tmp_path / "root", tracker), time.monotonic()
    _await(lambda: bool(_history(path)))
    assert time.monotonic() - began < 8
    tracker.finish(0, {"status": "completed"})


# What fails costs nothing


@pytest.fixture
def errors(caplog: pytest.LogCaptureFixture):
    """The errors that our tracker has logged so far."""
    return lambda: [
        record.getMessage()
        for record in caplog.records
        if record.name == "vae_exp.tracking.wandb_tracker" and record.levelno >= logging.ERROR
    ]


def test_a_root_that_cannot_be_written_costs_nothing(tmp_path: Path, errors: Callable[[], list[str]]):
    (tmp_path / "file").write_text("")
    tracker = _tracker(tmp_path / "file" / "root")
    tracker.log({"value": 1.0}, step=1)
    tracker.log_figures({}, step=1)
    tracker.finish(0, {"status": "completed"})
    assert tracker.error is not None
    assert tracker.error.startswith("could not start: NotADirectoryError: ")
    assert tracker.description == {
        "mode": "offline",
        "run_id": None,
        "directory": None,
        "error": tracker.error,
        **NAMES,
    }
    assert errors() == [
        f"Weights & Biases {tracker.error}. Training continues without it; metrics.jsonl has every epoch."
    ]


class _Run:
    """A W&B run whose methods can fail, and that counts the calls."""

    def __init__(self, **failures: Exception) -> None:
        self.id = "0123abcd"
        self.settings = SimpleNamespace(sync_dir="somewhere")
        self.calls: list[str] = []
        self.summary: dict[str, str] = {}
        self._failures = failures

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        """Never fails."""

    def start(self, **settings: Any) -> "_Run":
        return self._call("start")

    def log(self, values: dict[str, Any], step: int) -> None:
        self._call("log")

    def finish(self, exit_code: int) -> None:
        self._call("finish")

    def _call(self, name: str) -> "_Run":
        self.calls.append(name)
        if name in self._failures:
            raise self._failures[name]
        return self


ERRORS = [ConnectionResetError("gone"), RuntimeError("odd"), OSError(28, "No space left on device")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    ("failing", "calls"),
    [("start", ["start"]), ("log", ["start", "log"]), ("finish", ["start", "log", "log", "log", "finish"])],
)
def test_a_failure_is_recorded_once_and_later_calls_are_silent(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    errors: Callable[[], list[str]],
    failing: str,
    calls: list[str],
    error: Exception,
):
    run = _Run(**{failing: error})
    monkeypatch.setattr("wandb.init", run.start)
    tracker = _tracker(tmp_path)
    for step in range(3):
        tracker.log({"value": 1.0}, step=step)
    tracker.finish(0, {"status": "completed"})
    assert run.calls == calls
    assert tracker.error == f"could not {failing}: {type(error).__name__}: {error}"
    run_id, directory = (None, None) if failing == "start" else ("0123abcd", "somewhere")
    expected = {"mode": "offline", "run_id": run_id, "directory": directory, "error": tracker.error, **NAMES}
    assert tracker.description == expected
    assert len(errors()) == 1


def test_a_disk_that_is_full_at_the_end_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("wandb.init", _Run().start)
    tracker = _tracker(tmp_path)
    (tmp_path / "wandb").rmdir()
    (tmp_path / "wandb").write_text("")
    tracker.finish(0, {"status": "completed"})
    assert "could not finish: UserError: tracker.root=" in str(tracker.error)


def test_a_figure_that_is_missing_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = _Run()
    monkeypatch.setattr("wandb.init", run.start)
    tracker = _tracker(tmp_path)
    tracker.log_figures({"samples": tmp_path / "samples.png"}, step=1)
    assert str(tracker.error).startswith("could not log figures: FileNotFoundError: ")
    assert run.calls == ["start"]


# What only a process of its own can show


def _python(script: str, tmp_path: Path, **env: str) -> tuple[dict[str, Any], str]:
    """Run a script that prints one JSON object last; that object, and standard error."""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", PREAMBLE + script, str(tmp_path / "root")],
        env={**os.environ, "PYTHONWARNINGS": "error", **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return json.loads(ended.stdout.splitlines()[-1]), ended.stderr


PREAMBLE = """
import json, logging, os, signal, sys, time
from pathlib import Path
from vae_exp.errors import UserError
from vae_exp.tracking import wandb_tracker
from vae_exp.tracking.wandb_tracker import WandbTracker

logging.basicConfig(level=logging.ERROR)

def tracker(mode):
    return WandbTracker(mode, Path(sys.argv[1]), "tests", None, "a run", [], {"seed": 3})

def refusal():
    began = time.monotonic()
    try:
        tracker("online")
        return {"refused": ""}
    except UserError as error:
        return {"refused": str(error), "seconds": time.monotonic() - began}
"""

KILLED = """
import psutil
first = tracker("offline")
if "log" in os.environ["THEN"]:
    first.log({"value": 1.0}, step=1)
[core] = [child for child in psutil.Process().children() if child.name() == "wandb-core"]
core.send_signal(signal.SIGKILL)
core.wait(timeout=30)
began = time.monotonic()
for step in range(2, 5):
    if "log" in os.environ["THEN"]:
        first.log({"value": 1.0}, step=step)
first.finish(0, {"status": "completed"})
second = tracker("offline")
second.log({"value": 1.0}, step=1)
second.finish(0, {"status": "completed"})
print("training goes on")
seconds = time.monotonic() - began
print(json.dumps({"first": first.description, "second": second.error, "seconds": seconds}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("then", ["log", "finish"])
def test_a_wandb_core_that_is_killed_costs_nothing(tmp_path: Path, then: str):
    """Not the training, and not the tracking of a later run of the process."""
    result, err = _python(KILLED, tmp_path, THEN=then)
    assert result["first"]["error"].startswith(f"could not {then}: ")
    assert result["first"]["directory"].startswith(str(tmp_path / "root" / "wandb"))
    assert result["second"] is None
    assert "Training continues without it" in err
    assert "Traceback" not in err
    assert result["seconds"] < 20


ONLINE = """
wandb_tracker._ONLINE_START_SECONDS = 2.0
print(json.dumps(refusal()))
"""
SERVER = "http://127.0.0.1:9"
NO_SERVER = {"WANDB_BASE_URL": SERVER, "WANDB_API_KEY": "a" * 40, "WANDB_HTTP_TIMEOUT": "1"}


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("env", "reason"),
    [
        ({}, "tracker=online needs an API key"),
        (NO_SERVER, SERVER),
        pytest.param({"WANDB_API_KEY": "short"}, "API key must have", marks=pytest.mark.slow),
        pytest.param({"ROOT": "file"}, "tracker=online cannot start: ", marks=pytest.mark.slow),
    ],
)
def test_online_that_cannot_start_says_how_to_go_on_offline(tmp_path: Path, env: dict[str, str], reason: str):
    if "ROOT" in env:
        (tmp_path / "root").write_text("")
    result, _ = _python(ONLINE, tmp_path, **env)
    assert reason in result["refused"]
    assert result["refused"].startswith("tracker=online ")
    assert "tracker=offline" in result["refused"]
    assert result["seconds"] < 30


FROZEN = """
import psutil, threading

def freeze():
    while not (cores := [child for child in psutil.Process().children() if child.name() == "wandb-core"]):
        time.sleep(0.001)
    time.sleep(0.3)
    cores[0].suspend()

threading.Thread(target=freeze).start()
wandb_tracker._GRACE_SECONDS = 1.0
print(json.dumps(refusal()))
"""


@pytest.mark.slow
def test_a_refused_command_ends_though_its_wandb_core_does_not(tmp_path: Path):
    began = time.monotonic()
    result, _ = _python(FROZEN, tmp_path, **NO_SERVER)
    assert result["refused"].startswith("tracker=online cannot ")
    assert time.monotonic() - began < 60


def test_online_on_a_terminal_does_not_wait_at_a_prompt(tmp_path: Path):
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + ONLINE, str(tmp_path / "root")],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    try:
        assert process.wait(timeout=30) == 0
        assert b"tracker=online needs an API key" in os.read(ours, 100_000)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)
