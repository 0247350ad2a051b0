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
from matplotlib.figure import Figure

from tests.wandb_records import read_records
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
    tracker.finish(exit_code, "completed")
    path = _file(root, tracker)
    _await(lambda: bool(_of_kind("exit", path)))
    return path


def _history(path: Path) -> list[dict[str, Any]]:
    """What was logged, by step."""
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in history.item}
        for history in _of_kind("history", path)
    ]


def test_an_offline_run_is_written_under_the_root(tmp_path: Path):
    tracker = _tracker(tmp_path / "root", group="a sweep", tags=["one", "two"])
    tracker.log({"epoch": 1, "train/loss": 2.5}, step=600)
    path = _finished(tmp_path / "root", tracker)
    assert tracker.error is None
    [run] = _of_kind("run", path)
    assert (run.project, run.run_group, run.display_name) == ("tests", "a sweep", "a run")
    assert (run.job_type, sorted(run.tags)) == ("train", ["one", "two"])
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert {key: value for key, value in config.items() if key != "_wandb"} == CONFIG


def test_nothing_is_written_elsewhere(tmp_path: Path, home: Path):
    tracker = _tracker(tmp_path / "root")
    _finished(tmp_path / "root", tracker)
    assert list((tmp_path / "cwd").iterdir()) == []
    assert not list(home.rglob("*.wandb"))


def test_the_description_says_where_the_run_lies(tmp_path: Path):
    tracker = _tracker(tmp_path / "root")
    directory = _finished(tmp_path / "root", tracker).parent
    description = tracker.description
    assert description.keys() == {"mode", "run_id", "directory", "error"}
    assert (description["mode"], description["error"]) == ("offline", None)
    assert Path(description["directory"]) == directory
    assert json.loads(json.dumps(description)) == description


def test_metrics_are_kept_at_their_explicit_step(tmp_path: Path):
    tracker = _tracker(tmp_path / "root")
    tracker.log({"train/loss": 2.5}, step=600)
    tracker.log({"train/loss": 1.5, "val/loss": 1.75}, step=1200)
    tracker.log({"val/nll": 1.25}, step=1200)
    lines = _history(_finished(tmp_path / "root", tracker))
    assert [{name: line[name] for name in line if name not in ("_runtime", "_timestamp")} for line in lines] == [
        {"_step": 600, "train/loss": 2.5},
        {"_step": 1200, "train/loss": 1.5, "val/loss": 1.75, "val/nll": 1.25},
    ]


def test_figures_are_kept_as_images(tmp_path: Path):
    picture = tmp_path / "samples.png"
    Figure(figsize=(1, 1)).savefig(picture)
    tracker = _tracker(tmp_path / "root")
    tracker.log_figures({"samples": picture}, step=7)
    path = _finished(tmp_path / "root", tracker)
    assert tracker.error is None
    [image] = path.parent.glob("files/media/images/figures/samples_*.png")
    assert image.read_bytes() == picture.read_bytes()
    [line] = _history(path)
    assert line["_step"] == 7


def test_lists_are_kept_beside_the_numbers_of_their_step(tmp_path: Path):
    tracker = _tracker(tmp_path / "root")
    tracker.log_lists({"val/unit_rates": [0.5, 2.0]}, step=7)
    tracker.log({"val/loss": 1.0}, step=7)
    path = _finished(tmp_path / "root", tracker)
    assert tracker.error is None
    [line] = _history(path)
    assert (line["_step"], line["val/unit_rates"], line["val/loss"]) == (7, [0.5, 2.0], 1.0)


def test_warnings_are_kept_as_alerts(tmp_path: Path):
    tracker = _tracker(tmp_path / "root")
    tracker.warn("posterior collapse", "epoch 4: the rate is 0.01")
    tracker.warn("dead units", "epoch 9: 2 of 8")
    path = _finished(tmp_path / "root", tracker)
    assert tracker.error is None
    alerts = [(each.title, each.text) for each in _of_kind("alert", path)]
    assert alerts == [
        ("posterior collapse", "epoch 4: the rate is 0.01"),
        ("dead units", "epoch 9: 2 of 8"),
    ]


@pytest.mark.parametrize("exit_code", [0, 130])
def test_the_exit_code_of_ours_is_that_of_the_run(tmp_path: Path, exit_code: int):
    tracker = _tracker(tmp_path / "root")
    path = _finished(tmp_path / "root", tracker, exit_code)
    assert [each.exit_code for each in _of_kind("exit", path)] == [exit_code]
    told = [(item.key, item.value_json) for each in _of_kind("summary", path) for item in each.update]
    assert ("status", '"completed"') in [(key, value) for key, value in told]


def test_two_runs_in_one_process_are_two_runs(tmp_path: Path):
    paths = []
    for value in (1.0, 2.0):
        tracker = _tracker(tmp_path / "root")
        tracker.log({"value": value}, step=1)
        paths.append(_finished(tmp_path / "root", tracker))
    assert len(set(paths)) == 2
    assert [[line["value"] for line in _history(path)] for path in paths] == [[1.0], [2.0]]


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
    tracker.finish(0, "completed")


# What fails costs nothing


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture):
    """The errors that our tracker has logged so far."""

    def errors() -> list[str]:
        return [
            record.getMessage()
            for record in caplog.records
            if record.name == "vae_exp.tracking.wandb_tracker" and record.levelno >= logging.ERROR
        ]

    return errors


def test_a_root_that_cannot_be_written_costs_nothing(tmp_path: Path, said):
    (tmp_path / "file").write_text("")
    tracker = _tracker(tmp_path / "file" / "root")
    tracker.log({"value": 1.0}, step=1)
    tracker.log_figures({}, step=1)
    tracker.finish(0, "completed")
    assert tracker.error is not None
    assert tracker.error.startswith("could not start: NotADirectoryError: ")
    assert tracker.description == {"mode": "offline", "run_id": None, "directory": None, "error": tracker.error}
    assert said() == [
        f"Weights & Biases {tracker.error}. Training continues without it; metrics.jsonl has every epoch."
    ]


class _Run:
    """A W&B run that fails where it is told to, and counts the calls."""

    def __init__(self, **failures: Exception) -> None:
        self.id = "0123abcd"
        self.settings = SimpleNamespace(sync_dir="somewhere")
        self.calls: list[str] = []
        self.summary: dict[str, str] = {}
        self._failures = failures

    def log(self, values: dict[str, Any], step: int) -> None:
        self._call("log")

    def finish(self, exit_code: int) -> None:
        self._call("finish")

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name in self._failures:
            raise self._failures[name]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch):
    """Let `wandb.init` return this run, or raise this error."""

    def serve(run: _Run | Exception) -> None:
        def init(**settings: Any) -> _Run:
            if isinstance(run, Exception):
                raise run
            return run

        monkeypatch.setattr("wandb.init", init)

    return serve


ERRORS = [
    ConnectionResetError("gone"),
    RuntimeError("odd"),
    OSError(28, "No space left on device"),
    Exception("no"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_start_that_fails_is_recorded_and_later_calls_are_silent(tmp_path: Path, served, said, error: Exception):
    served(error)
    tracker = _tracker(tmp_path)
    tracker.log({"value": 1.0}, step=1)
    tracker.finish(0, "completed")
    assert tracker.error == f"could not start: {type(error).__name__}: {error}"
    assert tracker.description["error"] == tracker.error
    assert len(said()) == 1


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_log_that_fails_is_recorded_and_later_calls_are_silent(tmp_path: Path, served, said, error: Exception):
    run = _Run(log=error)
    served(run)
    tracker = _tracker(tmp_path)
    assert tracker.error is None
    for step in range(3):
        tracker.log({"value": 1.0}, step=step)
    tracker.finish(0, "completed")
    assert run.calls == ["log"]
    assert tracker.error == f"could not log: {type(error).__name__}: {error}"
    assert tracker.description == {
        "mode": "offline",
        "run_id": "0123abcd",
        "directory": "somewhere",
        "error": tracker.error,
    }
    assert len(said()) == 1


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_finish_that_fails_is_recorded(tmp_path: Path, served, said, error: Exception):
    served(_Run(finish=error))
    tracker = _tracker(tmp_path)
    tracker.finish(0, "completed")
    assert tracker.error == f"could not finish: {type(error).__name__}: {error}"
    assert len(said()) == 1


def test_a_figure_that_is_missing_is_recorded(tmp_path: Path, served, said):
    run = _Run()
    served(run)
    tracker = _tracker(tmp_path)
    tracker.log_figures({"samples": tmp_path / "samples.png"}, step=1)
    assert tracker.error is not None
    assert tracker.error.startswith("could not log figures: FileNotFoundError: ")
    assert run.calls == []
    assert len(said()) == 1


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
        return {"refused": None}
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
first.finish(0, "completed")
second = tracker("offline")
second.log({"value": 1.0}, step=1)
second.finish(0, "completed")
print("training goes on")
seconds = time.monotonic() - began
print(json.dumps({"first": first.description, "second": second.error, "seconds": seconds}))
"""


@pytest.mark.parametrize("then", ["log", "finish"])
def test_a_wandb_core_that_is_killed_costs_nothing(tmp_path: Path, then: str):
    found, said = _python(KILLED, tmp_path, THEN=then)
    assert found["first"]["error"].startswith(f"could not {then}: ")
    assert found["first"]["directory"].startswith(str(tmp_path / "root" / "wandb"))
    assert "Training continues without it" in said
    assert "Traceback" not in said
    assert found["seconds"] < 20


def test_a_run_after_one_whose_wandb_core_was_killed_is_tracked_again(tmp_path: Path):
    found, _ = _python(KILLED, tmp_path, THEN="log")
    assert found["second"] is None


ONLINE = """
wandb_tracker._ONLINE_START_SECONDS = 2.0
print(json.dumps(refusal()))
"""


def test_online_without_an_api_key_says_how_to_go_on_offline(tmp_path: Path):
    found, _ = _python(ONLINE, tmp_path)
    assert "tracker=online needs an API key" in found["refused"]
    assert "tracker=offline" in found["refused"]


def test_online_with_a_key_that_is_none_says_how_to_go_on_offline(tmp_path: Path):
    found, _ = _python(ONLINE, tmp_path, WANDB_API_KEY="short")
    assert "API key must have" in found["refused"]
    assert "tracker=offline" in found["refused"]


def test_online_without_its_server_says_how_to_go_on_offline(tmp_path: Path):
    server = "http://127.0.0.1:9"
    found, _ = _python(ONLINE, tmp_path, WANDB_BASE_URL=server, WANDB_API_KEY="a" * 40, WANDB_HTTP_TIMEOUT="2")
    assert found["refused"].startswith("tracker=online cannot ")
    assert server in found["refused"]
    assert "tracker=offline" in found["refused"]
    assert found["seconds"] < 30


FROZEN = """
import psutil, threading

def freeze():
    while not (found := [each for each in psutil.Process().children() if each.name() == "wandb-core"]):
        time.sleep(0.001)
    time.sleep(1.0)
    found[0].suspend()

threading.Thread(target=freeze).start()
wandb_tracker._GRACE_SECONDS = 1.0
print(json.dumps(refusal()))
"""


def test_a_refused_command_ends_though_its_wandb_core_does_not(tmp_path: Path):
    server = "http://127.0.0.1:9"
    began = time.monotonic()
    found, _ = _python(FROZEN, tmp_path, WANDB_BASE_URL=server, WANDB_API_KEY="a" * 40)
    assert found["refused"].startswith("tracker=online cannot ")
    assert time.monotonic() - began < 60


def test_online_with_a_root_that_cannot_be_written_is_refused(tmp_path: Path):
    (tmp_path / "root").write_text("")
    found, _ = _python(ONLINE, tmp_path)
    assert found["refused"].startswith("tracker=online cannot start: ")


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
