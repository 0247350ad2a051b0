"""Uploads against a stand-in for `wandb sync` that logs its arguments."""

import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from wandb.proto.wandb_internal_pb2 import Record, RunRecord

from tests.conftest import Finished, start
from tests.wandb_records import encode_log
from vae_exp.tracking.offline_runs import find_offline_runs
from vae_exp.tracking.sync_ledger import LEDGER_NAME

FAKE = """
import json, os, sys, time
from pathlib import Path
log = Path(__file__).with_name("log")
behaviour = lambda: json.loads(Path(__file__).with_name("behaviour").read_text())
paths = [Path(x) for x in sys.argv[1:] if x.startswith("/")]
options = [x for x in sys.argv[1:] if not x.startswith("/")]
for path in sorted(paths, key=lambda x: x.name[-3:] in behaviour().get("holds", [])):
    def write(event):
        note = {"name": path.name, "options": options, "resume": os.environ.get("WANDB_RESUME"), "event": event}
        with log.open("a") as file:
            file.write(json.dumps(note) + "\\n")
    write("start")
    while path.name[-3:] in behaviour().get("holds", []):
        time.sleep(0.01)
    print(behaviour().get("output", {}).get(path.name, "wandb: sending " + path.name))
    if path.name not in behaviour().get("unmarked", []):
        next(path.glob("*.wandb")).with_suffix(".wandb.synced").touch()
    write("end")
sys.exit(behaviour().get("code", 0))
"""


class Server:
    """The stand-in: its log and its behaviour."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "fake.py").write_text(FAKE)
        self.argv = [sys.executable, "-S", str(folder / "fake.py")]
        tool = folder / "wandb"
        tool.write_text(f'#!/bin/sh\nexec {shlex.join(self.argv)} "$@"\n')
        tool.chmod(0o755)
        self.behave()

    def behave(self, **behaviour: Any) -> None:
        new = self.folder / "new"
        new.write_text(json.dumps(behaviour))
        new.replace(self.folder / "behaviour")
        (self.folder / "log").unlink(missing_ok=True)

    def notes(self, event: str = "end") -> list[dict[str, Any]]:
        log = self.folder / "log"
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return [line for line in lines if line["event"] == event]

    def calls(self) -> list[tuple[str, str | None]]:
        return [(note["name"], note["resume"]) for note in self.notes()]

    def names(self) -> list[str]:
        return sorted(note["name"] for note in self.notes())


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path / "server")


@pytest.fixture
def upload(server: Server, command: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "executable", str(server.folder / "python"))  # its `wandb` is the stand-in
    return lambda *arguments: command("sync", *map(str, arguments))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def segment(root: Path, run_id: str, hour: int = 12, *, age: float = 3600, name: str = "offline-run") -> Path:
    path = root / "wandb" / f"{name}-20261122_{hour:02}0000-{run_id}"
    path.mkdir(parents=True)
    file = path / f"run-{run_id}.wandb"
    file.write_bytes(b"records")
    os.utime(file, (time.time() - age,) * 2)
    return path


def run_directory(path: Path, root: str, run_id: str | None, folder: Path, *, ended: bool = True) -> Path:
    """A run directory; without an id it is one of a run that was killed at its start."""
    (path / ".hydra").mkdir(parents=True)
    (path / ".hydra" / "config.yaml").write_text(f"tracker: {{mode: offline, root: {root}}}\n")
    (path / ".hydra" / "hydra.yaml").write_text(f"hydra: {{runtime: {{cwd: {path.parent}}}}}\n")
    wandb = {"mode": "offline", "run_id": run_id, "directory": str(folder), "error": None}
    if run_id is not None and ended:
        (path / "result.json").write_text(json.dumps({"status": "completed", "wandb": wandb}))
    elif run_id is not None:
        (path / "wandb.json").write_text(json.dumps(wandb))
    return path


def ledger(root: Path) -> dict[str, Any]:
    return json.loads((root / "wandb" / LEDGER_NAME).read_text())


# Order and records of uploads


def test_runs_are_uploaded_once_and_recorded(root, server, upload):
    paths = [segment(root, run_id) for run_id in ("aaa", "bbb", "ccc")]
    finished = upload(root, "--workers", 3)
    assert finished.code == 0, finished.err
    assert server.names() == [path.name for path in paths]
    assert server.notes()[0]["options"] == ["sync", "-n", "3"]
    assert [line.split()[0] for line in finished.out.splitlines()] == ["uploaded"] * 3 + ["3"]
    assert "3 uploaded, 0 failed, 0 uploaded before, 0 still being written" in finished.out
    entry = ledger(root)[paths[0].name]
    assert (entry["size"], entry["mtime_ns"]) == (7, (paths[0] / "run-aaa.wandb").stat().st_mtime_ns)
    server.behave()
    assert "0 uploaded, 0 failed, 3 uploaded before" in upload(root).out
    assert server.names() == []


def test_later_segments_follow_the_first_ones_and_are_appended(root, server, upload, monkeypatch):
    monkeypatch.setenv("WANDB_RESUME", "must")
    names = [segment(root, "aaa", hour).name for hour in (15, 9, 11)]
    other = segment(root, "bbb", 10).name
    finished = upload(root)
    assert "uploaded aaa, 3 segments" in finished.out
    assert server.calls() == [(names[1], None), (other, None), (names[2], "allow"), (names[0], "allow")]


def test_a_run_that_has_grown_or_was_resumed_is_uploaded_from_its_beginning(root, server, upload):
    first = segment(root, "aaa", 9)
    segment(root, "bbb")
    upload(root)
    server.behave()
    file = first / "run-aaa.wandb"
    file.write_bytes(b"records and more")
    os.utime(file, (time.time() - 1800,) * 2)
    assert upload(root).code == 0
    assert server.calls() == [(first.name, None)]
    server.behave()
    second = segment(root, "aaa", 13)
    assert upload(root).code == 0
    assert server.calls() == [(first.name, None), (second.name, "allow")]


def test_a_marker_of_wandb_counts_until_the_file_is_newer(root, server, upload):
    marker = segment(root, "aaa") / "run-aaa.wandb.synced"
    marker.touch()
    assert "0 uploaded, 0 failed, 1 uploaded before" in upload(root).out
    os.utime(marker, (time.time() - 7200,) * 2)
    assert "1 uploaded" in upload(root).out


@pytest.mark.parametrize("beginning", ["removed", "online"])
def test_a_run_whose_beginning_is_on_the_server_is_appended_to(beginning, root, server, upload):
    first = segment(root, "aaa", 9, name="run" if beginning == "online" else "offline-run")
    if beginning == "removed":
        upload(root)
        server.behave()
        for path in first.iterdir():
            path.unlink()
        first.rmdir()
    second = segment(root, "aaa", 13)
    assert upload(root).code == 0
    assert server.calls() == [(second.name, "allow")]


def test_a_run_that_was_online_twice_is_appended_to_after_the_first_time(root, server, upload, tmp_path):
    segment(root, "aaa", 11, name="run")
    segment(tmp_path / "later", "aaa", 8, name="run")
    between, after = segment(root, "aaa", 9), segment(tmp_path / "later", "aaa", 13)
    assert upload(root, tmp_path / "later").code == 0
    assert server.calls() == [(between.name, "allow"), (after.name, "allow")]


def test_another_project_or_entity_is_another_target(root, server, upload):
    segment(root, "aaa")
    upload(root)
    server.behave()
    for _ in range(2):
        assert upload(root, "--project", "mine", "--entity", "us").code == 0
    options = [note["options"] for note in server.notes()]
    assert options == [["sync", "-n", "4", "--project", "mine", "--entity", "us"]]


def test_a_dry_run_only_lists(root, server, upload):
    segment(root, "aaa", 9)
    second = segment(root, "aaa", 10)
    before = sorted(root.rglob("*"))
    finished = upload(root, "--dry-run")
    assert finished.code == 0
    assert finished.out.startswith("would upload aaa: ")
    assert second.name in finished.out
    assert sorted(root.rglob("*")) == before
    assert server.notes("start") == []


# Discovery of runs


def test_an_offline_run_directory_stands_for_the_whole_run(root, server, upload):
    first, second = segment(root, "aaa", 9), segment(root, "aaa", 10)
    segment(root, "bbb")
    assert upload(second).code == 0
    assert server.names() == [first.name, second.name]


@pytest.mark.parametrize("case", ["ended", "moved", "killed"])
def test_a_run_directory_records_its_run(case, root, server, upload, tmp_path):
    path = segment(root, "aaa", age=1 if case == "ended" else 3600)  # fresh, but the run has ended
    segment(root, "bbb")
    folder = Path("/gone/wandb/offline-run-x-aaa") if case == "moved" else path
    tracker_root = "elsewhere" if case == "ended" else "root"
    run = run_directory(tmp_path / "first", tracker_root, "aaa", folder, ended=case != "killed")
    finished = upload(run)
    assert "uploaded aaa (first)" in finished.out, finished.err
    assert server.names() == [path.name]


def test_a_sweep_is_all_its_jobs(root, server, upload, tmp_path):
    sweep = tmp_path / "multirun" / "mine"
    paths = [segment(root, run_id) for run_id in ("aaa", "bbb", "ccc")]
    for path in paths[:2]:
        run_directory(sweep / f"job-{path.name[-3:]}", str(root), path.name[-3:], path)
    run_directory(sweep / "early", str(root), None, root)
    (sweep / "link").symlink_to(run_directory(tmp_path / "other", str(root), "ccc", paths[2]))
    finished = upload(sweep)
    assert finished.code == 0
    assert server.names() == [path.name for path in paths[:2]]
    assert "skipped early: its W&B id is not recorded" in finished.err


def test_segments_in_several_folders_are_one_run_and_copies_count_once(root, server, upload, tmp_path):
    first, second = segment(root, "aaa", 9), segment(tmp_path / "later", "aaa", 10)
    segment(tmp_path / "later", "aaa", 9)
    assert upload(root, tmp_path / "later").code == 0
    assert server.names() == [first.name, second.name]
    assert list(ledger(tmp_path / "later")) == [second.name]


def test_links_are_skipped(root, server, upload, tmp_path):
    path = segment(root, "aaa")
    elsewhere = segment(tmp_path / "elsewhere", "bbb")
    (root / "wandb" / elsewhere.name).symlink_to(elsewhere)
    (root / "wandb" / "latest-run").symlink_to(path)
    empty = root / "wandb" / "offline-run-20261122_120000-ccc"
    empty.mkdir()
    (empty / "run-ccc.wandb").symlink_to(path / "run-aaa.wandb")
    assert upload(root).code == 0
    assert server.names() == [path.name]


def test_a_run_that_is_still_written_is_skipped(root, server, upload, tmp_path):
    fresh, old = segment(root, "aaa", age=1), segment(root, "bbb")
    run = run_directory(tmp_path / "locked", "root", "bbb", old)
    with (run / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        finished = upload(root, run)
        assert "skipped aaa: it is still being written" in finished.out
        assert "skipped bbb (locked): it is still being written" in finished.out
        assert (finished.code, server.names()) == (0, [])
        assert upload(root, run, "--include-running").code == 0
    assert server.names() == [fresh.name, old.name]


@pytest.mark.parametrize(("last", "is_running"), [("exit", False), ("summary", True)])
def test_a_fresh_run_whose_log_has_its_end_is_not_being_written(last: str, is_running: bool, root):
    records = [Record(run=RunRecord(run_id="aaa")), Record(**{last: {}})]
    path = segment(root, "aaa", age=1)
    (path / "run-aaa.wandb").write_bytes(encode_log([record.SerializeToString() for record in records])[0])
    [run] = find_offline_runs([root])
    assert run.is_running() == is_running


# Failures

ERRORS = {
    "nothing uploaded": ("wandb: Network error", True, "wandb: Network error (nothing was uploaded)"),
    "of the run": ("wandb: ERROR [me/p/bbb] Fatal error", False, "wandb: ERROR [me/p/bbb] Fatal error"),
    "of no run": ("\x1b[31mwandb: ERROR denied\x1b[0m", True, "wandb: ERROR denied (nothing was uploaded)"),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_a_failure_fails_its_run_alone_and_is_tried_again(kind, root, server, upload):
    output, unmarked, reason = ERRORS[kind]
    paths = [segment(root, run_id) for run_id in ("aaa", "bbb", "ccc")]
    later = segment(root, "bbb", 13)
    names = [path.name for path in paths]
    server.behave(output={names[1]: output, names[2]: " "}, unmarked=names[1:2] if unmarked else [])
    finished = upload(root)
    assert finished.code == 1
    assert f"failed bbb: {reason}" in finished.err
    assert "2 uploaded, 1 failed" in finished.out
    assert later.name not in server.names()
    assert not (paths[1] / "run-bbb.wandb.synced").exists()
    server.behave()
    assert upload(root).code == 0
    assert server.calls() == [(names[1], None), (later.name, "allow")]


@pytest.mark.parametrize("error", ["wandb: ERROR permission denied", "Error: No API key configured."])
def test_an_error_that_names_no_run_fails_all_where_all_have_markers(error: str, root, server, upload):
    no_reason = "wandb: ERROR Find detailed error logs at: /there"
    server.behave(output={segment(root, "aaa").name: f"{error}\n{no_reason}"})
    for run_id in "bcdefg":
        segment(root, run_id)
    finished = upload(root)
    assert (finished.code, finished.err.count(error)) == (1, 2)  # as W&B says it, and once for all runs
    assert f"failed aaa, b, c, d, e and 2 more: {error}\n" in finished.err


def test_a_segment_that_a_kill_truncated_counts_as_uploaded(root, server, upload):
    first, second = segment(root, "aaa", 9), segment(root, "aaa", 10)
    line = f'wandb: ERROR Failed to sync all data from "{first.name}": the file ends with an incomplete record.'
    server.behave(output={first.name: line}, unmarked=[first.name])
    assert upload(root).code == 0
    assert server.names() == [first.name, second.name]
    assert "1 uploaded before" in upload(root).out


def test_a_command_of_the_user_fails_by_its_exit_code(root, server, upload, command):
    path = segment(root, "aaa")
    server.behave(unmarked=[path.name], code=3)
    finished = upload(root, "--command", shlex.join(server.argv))
    assert (finished.code, "(exit code 3)" in finished.err) == (1, True)
    server.behave(unmarked=[path.name])
    assert upload(root, "--command", shlex.join(server.argv)).code == 0
    for words in ("no-such-program", "'", ""):
        assert upload(root, "--command", words).err.startswith("Error: --command")


def test_a_bad_directory_is_refused(root, upload):
    assert upload(root).err == f"Error: DIR={root} is not a directory.\n"
    (root / "wandb").mkdir(parents=True)
    finished = upload(root)
    assert finished.code == 1
    assert f"Error: DIR={root} holds no offline W&B run; expected a folder with wandb/offline-run-" in finished.err
    finished = upload(root, "--workers", 0)
    assert (finished.code, "expected 1 or more" in finished.err) == (2, True)


def test_an_unreadable_ledger_is_refused_before_any_upload(root, server, upload):
    segment(root, "aaa")
    file = root / "wandb" / LEDGER_NAME
    for text in ("{", "[]"):
        file.write_text(text)
        finished = upload(root)
        assert finished.code == 1
        assert f"Error: {file} " in finished.err
    assert server.notes("start") == []


def test_a_ledger_that_cannot_be_written_fails_that_run_alone(root, upload, monkeypatch):
    segment(root, "aaa", 9)
    segment(root, "bbb", 10)
    is_full = iter([True, False])

    def write_json(path: Path, content: dict[str, Any]) -> None:
        if next(is_full):
            raise OSError("No space left on device")
        path.write_text(json.dumps(content))

    monkeypatch.setattr("vae_exp.tracking.sync_ledger.write_json", write_json)
    finished = upload(root)
    assert finished.code == 1
    assert "failed aaa: uploaded, but that could not be recorded: No space left on device" in finished.err
    assert "1 uploaded, 1 failed" in finished.out


# Interruptions


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_upload_can_be_continued(number, root, server, upload, monkeypatch):
    monkeypatch.undo()
    for hour, run_id in enumerate(("aaa", "bbb", "ccc")):
        segment(root, run_id, hour)
    server.behave(holds=["ccc"])
    arguments = ("sync", str(root), "--command", shlex.join(server.argv))
    started = start(*arguments, cwd=root)
    deadline = time.monotonic() + 20
    while len(server.notes("start")) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    started.send_signal(number)
    if number == signal.SIGKILL:
        started.wait(timeout=20)
        refused = start(*arguments, cwd=root)  # the command of the killed process still runs
        _, err = refused.communicate(timeout=20)
        assert (refused.returncode, "another process is uploading from" in err) == (1, True)
        server.behave()
    out, err = started.communicate(timeout=20)
    if number != signal.SIGKILL:
        assert started.returncode == 128 + number, out + err
        assert "2 uploaded, 0 failed, 1 left" in out
        assert "run the same command to continue" in err
        assert sorted(name[-3:] for name in ledger(root)) == ["aaa", "bbb"]
    server.behave()
    while True:
        again = start(*arguments, cwd=root)
        _, err = again.communicate(timeout=20)
        if again.returncode == 0 or time.monotonic() > deadline:
            break
    assert again.returncode == 0, err
    if number != signal.SIGKILL:
        assert [name[-3:] for name in server.names()] == ["ccc"]


def test_neither_torch_nor_wandb_is_imported():
    code = "import sys, vae_exp.sync; print([name for name in ('torch', 'wandb', 'hydra') if name in sys.modules])"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"
