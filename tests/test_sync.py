"""Uploads against a stand-in for `wandb sync` that notes what it was given, and when."""

import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import Finished, start
from vae_exp.uploading.memory import MEMORY_NAME

FAKE = """
import json, os, sys, time
from pathlib import Path
path = Path(sys.argv[-1])
note = {"name": path.name, "arguments": sys.argv[1:], "resume": os.environ.get("WANDB_RESUME")}
note["began"] = time.time()
log = Path(__file__).with_name("log")
def behaviour():
    return json.loads(Path(__file__).with_name("behaviour").read_text())
def write(what):
    with log.open("a") as file:
        file.write(json.dumps({**note, "what": what}) + "\\n")
write("began")
while path.name[-3:] in behaviour().get("holds", []):
    time.sleep(0.01)
while log.read_text().count('"what": "began"') < behaviour().get("together", 0):
    time.sleep(0.01)
print("sending", path.name)
print(behaviour().get("says", {}).get(path.name, ""))
if path.name in behaviour().get("fails", []):
    print("\\x1b[31mthe server said no\\x1b[0m\\n")
    sys.exit(3)
if behaviour().get("marks"):
    next(path.glob("*.wandb")).with_suffix(".wandb.synced").touch()
note["ended"] = time.time()
write("ended")
"""


class Server:
    """The stand-in: what it was asked, and how it behaves."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        (folder / "fake.py").write_text(FAKE)
        self.behave()

    @property
    def option(self) -> tuple[str, str]:
        return "--command", shlex.join([sys.executable, "-S", str(self._folder / "fake.py")])

    def behave(self, **behaviour: Any) -> None:
        new = self._folder / "new"
        new.write_text(json.dumps(behaviour))
        new.replace(self._folder / "behaviour")

    def notes(self, what: str = "ended") -> list[dict[str, Any]]:
        log = self._folder / "log"
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return [line for line in lines if line["what"] == what]

    def names(self, what: str = "ended") -> list[str]:
        return [note["name"] for note in self.notes(what)]

    def forget(self) -> None:
        (self._folder / "log").unlink(missing_ok=True)

    def wait_for(self, count: int, what: str) -> None:
        until = time.monotonic() + 20
        while len(self.notes(what)) < count:
            assert time.monotonic() < until
            time.sleep(0.01)


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path / "server")


@pytest.fixture
def upload(server: Server, command: Callable[..., Finished]) -> Callable[..., Finished]:
    return lambda *arguments: command("sync", *map(str, arguments), *server.option)


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


def grow(path: Path) -> None:
    file = next(path.glob("*.wandb"))
    file.write_bytes(file.read_bytes() + b"more")
    os.utime(file, (time.time() - 1800,) * 2)


def run_directory(path: Path, root: str, *, run_id: str | None = None, folder: Path | None = None) -> Path:
    """A run directory; one with an id has ended, one without was killed."""
    (path / ".hydra").mkdir(parents=True)
    (path / ".hydra" / "config.yaml").write_text(f"tracker: {{mode: offline, root: {root}}}\n")
    (path / ".hydra" / "hydra.yaml").write_text(f"hydra: {{runtime: {{cwd: {path.parent}}}}}\n")
    if run_id is not None:
        wandb = {"mode": "offline", "run_id": run_id, "directory": str(folder), "error": None}
        (path / "result.json").write_text(json.dumps({"status": "completed", "wandb": wandb}))
    return path


def memory(root: Path) -> dict[str, Any]:
    return json.loads((root / "wandb" / MEMORY_NAME).read_text())


# What is uploaded


def test_runs_are_uploaded_once_and_remembered(root: Path, server: Server, upload: Callable[..., Finished]):
    paths = [segment(root, run_id) for run_id in ("aaa", "bbb", "ccc")]
    finished = upload(root)
    assert finished.code == 0, finished.err
    assert sorted(server.names()) == [path.name for path in paths]
    assert [line.split()[0] for line in finished.out.splitlines()] == ["uploaded"] * 3 + ["3"]
    assert "3 uploaded, 0 failed, 0 uploaded before, 0 still being written" in finished.out
    file = paths[0] / "run-aaa.wandb"
    kept = memory(root)[paths[0].name]
    assert (kept["size"], kept["mtime_ns"]) == (7, file.stat().st_mtime_ns)
    server.forget()
    again = upload(root)
    assert "0 uploaded, 0 failed, 3 uploaded before" in again.out
    assert again.code == 0
    assert server.names() == []


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_so_many_uploads_overlap_as_there_are_workers(
    root: Path, server: Server, upload: Callable[..., Finished], workers: int
):
    for number in range(4):
        segment(root, f"run{number}")
    server.behave(together=workers)  # the first ones wait for so many to be under way
    assert upload(root, "--workers", workers).code == 0
    notes = server.notes()
    assert len(notes) == 4
    most = max(sum(each["began"] <= at["began"] < each["ended"] for each in notes) for at in notes)
    assert most == workers


def test_segments_of_a_run_follow_one_another_and_the_later_ones_go_on(
    root: Path, server: Server, upload: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("WANDB_RESUME", "must")
    names = [segment(root, "aaa", hour).name for hour in (15, 9, 11)]
    segment(root, "bbb", 10)
    finished = upload(root)
    assert "uploaded aaa, 3 segments" in finished.out
    notes = [note for note in server.notes() if note["name"].endswith("aaa")]
    assert [note["name"] for note in notes] == [names[1], names[2], names[0]]
    assert [note["resume"] for note in notes] == [None, "allow", "allow"]
    assert all(before["ended"] <= after["began"] for before, after in pairwise(notes))


def test_a_run_that_has_grown_or_was_resumed_is_uploaded_from_its_beginning(
    root: Path, server: Server, upload: Callable[..., Finished]
):
    first = segment(root, "aaa", 9)
    segment(root, "bbb")
    upload(root)
    server.forget()
    grow(first)
    assert upload(root).code == 0
    assert server.names() == [first.name]
    server.forget()
    second = segment(root, "aaa", 13)
    assert upload(root).code == 0
    assert server.names() == [first.name, second.name]
    assert [note["resume"] for note in server.notes()] == [None, "allow"]


def test_a_marker_of_wandb_counts_until_the_file_is_newer(
    root: Path, server: Server, upload: Callable[..., Finished]
):
    path = segment(root, "aaa")
    marker = path / "run-aaa.wandb.synced"
    marker.touch()
    assert "0 uploaded, 0 failed, 1 uploaded before" in upload(root).out
    os.utime(marker, (time.time() - 7200,) * 2)
    assert "1 uploaded" in upload(root).out
    assert server.names() == [path.name]


@pytest.mark.parametrize("where", ["cleaned away", "online"])
def test_a_run_whose_beginning_wandb_has_already_goes_on(
    where: str, root: Path, server: Server, upload: Callable[..., Finished]
):
    first = segment(root, "aaa", 9, name="run" if where == "online" else "offline-run")
    if where == "cleaned away":
        upload(root)
        server.forget()
        (first / "run-aaa.wandb").unlink()
        first.rmdir()
    second = segment(root, "aaa", 13)
    assert upload(root).code == 0
    assert [(note["name"], note["resume"]) for note in server.notes()] == [(second.name, "allow")]


def test_a_project_and_an_entity_are_passed_on_and_make_another_target(
    root: Path, server: Server, upload: Callable[..., Finished]
):
    path = segment(root, "aaa")
    upload(root)
    server.forget()
    for _ in range(2):
        assert upload(root, "--project", "mine", "--entity", "us").code == 0
    assert [note["arguments"] for note in server.notes()] == [["--project", "mine", "--entity", "us", str(path)]]


def test_a_dry_run_lists_and_leaves_everything_alone(root: Path, server: Server, upload: Callable[..., Finished]):
    segment(root, "aaa", 9)
    second = segment(root, "aaa", 10)
    before = sorted(root.rglob("*"))
    finished = upload(root, "--dry-run")
    assert finished.code == 0
    assert finished.out.startswith("would upload aaa: ")
    assert second.name in finished.out
    assert sorted(root.rglob("*")) == before
    assert server.names("began") == []


# Where runs are found


def test_an_offline_run_directory_stands_for_the_whole_run(
    root: Path, server: Server, upload: Callable[..., Finished]
):
    first, second = segment(root, "aaa", 9), segment(root, "aaa", 10)
    segment(root, "bbb")
    assert upload(second).code == 0
    assert server.names() == [first.name, second.name]


def test_a_run_directory_names_its_run(
    root: Path, server: Server, upload: Callable[..., Finished], tmp_path: Path
):
    path = segment(root, "aaa", age=1)  # fresh, but the run has ended
    segment(root, "bbb")
    run = run_directory(tmp_path / "outputs" / "first", "elsewhere", run_id="aaa", folder=path)
    finished = upload(run, path)
    assert "uploaded aaa (first)" in finished.out, finished.err
    assert server.names() == [path.name]


def test_a_run_directory_whose_folder_was_moved_is_found_by_its_config(
    root: Path, server: Server, upload: Callable[..., Finished], tmp_path: Path
):
    path = segment(root, "aaa")
    run = run_directory(tmp_path / "first", "root", run_id="aaa", folder=Path("/gone/wandb/offline-run-x-aaa"))
    assert upload(run).code == 0
    assert server.names() == [path.name]


def test_a_killed_run_is_known_by_its_checkpoint(
    root: Path, server: Server, upload: Callable[..., Finished], tmp_path: Path
):
    path = segment(root, "k1lled00")
    segment(root, "bbb")
    run = run_directory(tmp_path / "killed", "root")
    (run / "checkpoints").mkdir()
    torch.save(
        {"format": 2, "weights": {"w": torch.ones(3)}, "wandb_run_id": "k1lled00", "schedule": {"over": 3}},
        run / "checkpoints" / "last.pt",
    )
    assert upload(run).code == 0
    assert server.names() == [path.name]


def test_a_sweep_is_all_its_jobs_and_says_of_which_it_knows_no_run(
    root: Path, server: Server, upload: Callable[..., Finished], tmp_path: Path
):
    sweep = tmp_path / "multirun" / "mine"
    paths = [segment(root, run_id) for run_id in ("aaa", "bbb", "ccc")]
    for path in paths[:2]:
        run_id = path.name[-3:]
        run_directory(sweep / f"job-{run_id}", str(root), run_id=run_id, folder=path)
    run_directory(sweep / "early", str(root))
    (sweep / "link").symlink_to(run_directory(tmp_path / "other", str(root), run_id="ccc", folder=paths[2]))
    finished = upload(sweep)
    assert finished.code == 0
    assert sorted(server.names()) == [path.name for path in paths[:2]]
    assert "skipped early: which W&B run is its own is not known" in finished.err


def test_segments_in_several_folders_are_one_run_and_copies_count_once(
    root: Path, server: Server, upload: Callable[..., Finished], tmp_path: Path
):
    first, second = segment(root, "aaa", 9), segment(tmp_path / "later", "aaa", 10)
    segment(tmp_path / "later", "aaa", 9)
    assert upload(root, tmp_path / "later").code == 0
    assert server.names() == [first.name, second.name]
    assert list(memory(tmp_path / "later")) == [second.name]


def test_links_are_left_alone(root: Path, server: Server, upload: Callable[..., Finished], tmp_path: Path):
    path = segment(root, "aaa")
    elsewhere = segment(tmp_path / "elsewhere", "bbb")
    (root / "wandb" / elsewhere.name).symlink_to(elsewhere)
    (root / "wandb" / "latest-run").symlink_to(path)
    empty = root / "wandb" / "offline-run-20261122_120000-ccc"
    empty.mkdir()
    (empty / "run-ccc.wandb").symlink_to(path / "run-aaa.wandb")
    assert upload(root).code == 0
    assert server.names() == [path.name]


# What is still being written


def test_a_run_that_is_still_written_is_left_for_later(
    root: Path, server: Server, upload: Callable[..., Finished], tmp_path: Path
):
    fresh, old = segment(root, "aaa", age=1), segment(root, "bbb")
    run = run_directory(tmp_path / "held", "root", run_id="bbb", folder=old)
    with (run / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        finished = upload(root, run)
        assert "skipped aaa: it is still being written" in finished.out
        assert "skipped bbb (held): it is still being written" in finished.out
        assert finished.code == 0
        assert server.names() == []
        assert upload(root, run, "--include-running").code == 0
    assert sorted(server.names()) == [fresh.name, old.name]


# What goes wrong


def test_a_failure_is_named_harms_no_other_and_is_tried_again(
    root: Path, server: Server, upload: Callable[..., Finished]
):
    paths = [segment(root, run_id) for run_id in ("aaa", "bbb", "ccc")]
    later = segment(root, "bbb", 13)
    server.behave(fails=[paths[1].name])
    finished = upload(root)
    assert finished.code == 1
    assert "failed bbb: the server said no (exit code 3)" in finished.err
    assert "2 uploaded, 1 failed" in finished.out
    assert later.name not in server.names("began")
    server.behave()
    server.forget()
    assert upload(root).code == 0
    assert server.names() == [paths[1].name, later.name]


def test_an_error_that_wandb_ends_well_with_is_a_failure(
    root: Path, server: Server, upload: Callable[..., Finished]
):
    path = segment(root, "aaa")
    server.behave(says={path.name: "wandb: ERROR permission denied\nwandb: Finished syncing"}, marks=True)
    finished = upload(root)
    assert finished.code == 1
    assert "failed aaa: wandb: ERROR permission denied" in finished.err
    assert not (path / "run-aaa.wandb.synced").exists()
    server.behave()
    assert "1 uploaded" in upload(root).out


def test_a_segment_that_a_kill_cut_short_is_as_good_as_it_gets(
    root: Path, server: Server, upload: Callable[..., Finished]
):
    first, second = segment(root, "aaa", 9), segment(root, "aaa", 10)
    server.behave(says={first.name: f'wandb: ERROR "{first}": the file ends with an incomplete record. Retry.'})
    assert upload(root).code == 0
    assert server.names() == [first.name, second.name]


@pytest.mark.parametrize("leaves", [True, False])
def test_wandb_itself_must_leave_its_marker(
    leaves: bool, root: Path, server: Server, command: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
):
    segment(root, "aaa")
    server.behave(marks=leaves)
    words = shlex.split(server.option[1])
    tool = root / "bin" / "wandb"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\nshift\nexec {shlex.join(words)} "$@"\n')
    tool.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tool.with_name("python")))
    finished = command("sync", str(root))
    assert finished.code == int(not leaves), finished.err
    assert ("(nothing was uploaded)" in finished.err) is not leaves


def test_a_bad_directory_is_told(root: Path, upload: Callable[..., Finished]):
    finished = upload(root)
    assert (finished.code, finished.out) == (1, "")
    assert finished.err == f"Error: DIR={root} is not a directory.\n"
    (root / "wandb").mkdir(parents=True)
    finished = upload(root)
    assert finished.code == 1
    assert f"Error: DIR={root} holds no offline W&B run; expected a folder with wandb/offline-run-" in finished.err


def test_a_memory_that_cannot_be_used_is_told_before_anything_is_uploaded(
    root: Path, server: Server, upload: Callable[..., Finished]
):
    segment(root, "aaa")
    file = root / "wandb" / MEMORY_NAME
    file.mkdir()
    assert f"Error: {file} cannot be read" in upload(root).err
    file.rmdir()
    for text in ("{", "[]"):
        file.write_text(text)
        finished = upload(root)
        assert finished.code == 1
        assert f"Error: {file} " in finished.err
    assert server.names("began") == []


def test_a_memory_that_cannot_be_written_fails_the_run_and_no_other(
    root: Path, server: Server, upload: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
):
    segment(root, "aaa", 9)
    segment(root, "bbb", 10)
    full = iter([True, False])

    def write_json(path: Path, content: dict[str, Any]) -> None:
        if next(full):
            raise OSError("No space left on device")
        path.write_text(json.dumps(content))

    monkeypatch.setattr("vae_exp.uploading.memory.write_json", write_json)
    finished = upload(root, "--workers", 1)
    assert finished.code == 1
    assert "failed aaa: uploaded, but that could not be remembered: No space left on device" in finished.err
    assert "1 uploaded, 1 failed" in finished.out
    assert len(server.names()) == 2


def test_a_command_that_is_none_is_told(root: Path, command: Callable[..., Finished]):
    segment(root, "aaa")
    for words in ("no-such-program", "'", ""):
        finished = command("sync", str(root), "--command", words)
        assert finished.code == 1
        assert finished.err.startswith("Error: --command")


def test_workers_are_at_least_one(root: Path, upload: Callable[..., Finished]):
    finished = upload(root, "--workers", 0)
    assert finished.code == 2
    assert "expected 1 or more" in finished.err


# Interruptions


def _interrupted(root: Path, server: Server, number: int) -> subprocess.Popen[str]:
    """Two of four runs are under way and two are done when the signal comes."""
    for hour, run_id in enumerate(("aaa", "bbb", "ccc", "ddd")):
        segment(root, run_id, hour)
    server.behave(holds=["ccc", "ddd"])
    started = start("sync", str(root), "--workers", "2", *server.option, cwd=root)
    server.wait_for(4, "began")
    started.send_signal(number)
    return started


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_upload_goes_on_where_it_was(
    number: int, root: Path, server: Server, upload: Callable[..., Finished]
):
    started = _interrupted(root, server, number)
    out, err = started.communicate(timeout=20)
    assert started.returncode == 128 + number, out + err
    assert "2 uploaded, 0 failed, 2 left" in out
    assert "run the same command to continue" in err
    assert sorted(name[-3:] for name in memory(root)) == ["aaa", "bbb"]
    server.behave()
    assert "2 uploaded, 0 failed, 2 uploaded before" in upload(root).out
    assert sorted(name[-3:] for name in server.names()) == ["aaa", "bbb", "ccc", "ddd"]


def test_after_a_kill_nothing_is_uploaded_twice_at_once(
    root: Path, server: Server, upload: Callable[..., Finished]
):
    started = _interrupted(root, server, signal.SIGKILL)
    started.communicate(timeout=20)
    assert started.returncode == -signal.SIGKILL
    refused = upload(root)  # what the killed process has begun is still under way
    assert refused.code == 1
    assert "another process is uploading from" in refused.err
    server.behave()
    server.wait_for(4, "ended")
    until = time.monotonic() + 10
    while (finished := upload(root)).code and time.monotonic() < until:
        time.sleep(0.02)
    assert "2 uploaded before" in finished.out
    assert [name[-3:] for name in server.names()[4:]] in (["ccc", "ddd"], ["ddd", "ccc"])


def test_neither_torch_nor_wandb_is_imported():
    told = "import sys, vae_exp.sync; print([name for name in ('torch', 'wandb', 'hydra') if name in sys.modules])"
    finished = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"
