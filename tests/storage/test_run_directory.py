import json
import os
from concurrent.futures import ThreadPoolExecutor
from math import inf, nan
from pathlib import Path
from typing import IO

import pytest

from vae_exp.errors import UserError
from vae_exp.storage.atomic_io import (
    check_writable,
    to_json_line,
    write_atomically,
    write_json,
)
from vae_exp.storage.output_files import write_to_user_path
from vae_exp.storage.run_directory import RunDirectory, claim_directory

# Names


def test_the_files_of_a_run_lie_in_its_directory(tmp_path: Path):
    run = RunDirectory(tmp_path)
    names = [run.config, run.overrides, run.metrics, run.result, run.log, run.figures]
    names += [run.evaluation("test", "best"), run.checkpoint("best")]
    assert [str(path.relative_to(tmp_path)) for path in names] == [
        ".hydra/config.yaml",
        ".hydra/overrides.yaml",
        "metrics.jsonl",
        "result.json",
        "train.log",
        "figures",
        "evaluation/test-best.json",
        "checkpoints/best.pt",
    ]


def test_a_path_is_anchored_once_and_a_home_folder_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    runs = RunDirectory(Path("run")), RunDirectory(Path("~/run"))
    monkeypatch.chdir("/")
    assert [run.path for run in runs] == [tmp_path / "run", tmp_path / "home" / "run"]


def test_a_link_as_lock_is_not_opened(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "mine.txt")
    assert not RunDirectory(tmp_path / "run").is_locked()
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_temporary_files_behind_a_link_stay(tmp_path: Path):
    leftover = tmp_path / "elsewhere" / ".notes.txt.4711.tmp"
    for folder in (leftover.parent, tmp_path / "run" / "figures"):
        folder.mkdir(parents=True)
    own = tmp_path / "run" / "figures" / leftover.name
    for file in (leftover, own):
        file.touch()
    (tmp_path / "run" / "generated").symlink_to(leftover.parent)
    RunDirectory(tmp_path / "run").remove_temp_files()
    assert (leftover.exists(), own.exists()) == (True, False)


def test_an_attempt_that_is_archived_by_half_cannot_be_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("result.json", "metrics.jsonl", "checkpoints/last.pt", ".hydra/config.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    moved, rename = [], Path.rename

    def note(path: Path, target: Path) -> Path:
        moved.append(path.name)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", note)
    RunDirectory(tmp_path).archive_attempt()
    assert (moved[0], moved[-1], len(moved)) == ("checkpoints", "result.json", 4)


@pytest.mark.parametrize(
    ("name", "alone", "beside_a_lock"),
    [
        (".hydra/config.yaml", True, True),
        ("result.json", True, True),
        ("checkpoints/last.pt", True, True),
        (".hydra/hydra.yaml", True, False),  # what a start of ours has left that was killed before its config
        ("metrics.jsonl", True, False),
        ("train.log", True, False),
        ("notes.txt", False, False),
    ],
)
def test_a_directory_holds_a_run_once_a_trace_is_there(
    tmp_path: Path, name: str, alone: bool, beside_a_lock: bool
):
    run = RunDirectory(tmp_path)
    assert not run.contains_run()
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("")
    assert run.contains_run() is alone
    run.lock.touch()
    assert run.contains_run() is beside_a_lock


# The result


def test_a_result_is_read_as_it_was_written(tmp_path: Path):
    run, result = RunDirectory(tmp_path / "run"), {"status": "completed", "metrics": {"val/loss": 1.5}}
    assert run.read_result() is None
    write_json(run.result, result)
    assert run.read_result() == result


def test_an_old_result_is_read_under_current_names(tmp_path: Path):
    audit = {"pixels": 64, "concerns": ["beta"]}
    write_json(tmp_path / "result.json", {"metrics": {"val/codes_used": 3, "val/elbo": -1.0}, "audit": audit})
    assert RunDirectory(tmp_path).read_result() == {
        "metrics": {"val/codebook_used": 3, "val/elbo": -1.0},
        "loss_check": {"pixels": 64, "warnings": ["beta"]},
    }


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"status": "comp', r"result\.json is not valid JSON"),
        (b"\xff\xfe\x00", r"result\.json is not valid JSON"),
        (b"[]", r"result\.json holds list; expected a JSON object"),
        (b"null", r"result\.json holds NoneType; expected a JSON object"),
    ],
)
def test_a_result_that_is_no_object_is_refused(tmp_path: Path, content: bytes, reason: str):
    (tmp_path / "result.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"{tmp_path}/{reason}"):
        RunDirectory(tmp_path).read_result()


# Writing


def test_a_file_is_written_with_its_folders_and_replaced(tmp_path: Path):
    path = tmp_path / "a" / "b" / "file"
    for content in (b"a long old content", b"new"):
        write_atomically(path, lambda file, content=content: file.write(content))
        assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt()], ids=repr)
def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, error: BaseException):
    def fail(file: IO[bytes]) -> None:
        file.write(b"half")
        raise error

    path = tmp_path / "file"
    with pytest.raises(type(error)):
        write_atomically(path, fail)
    assert list(tmp_path.iterdir()) == []
    path.write_bytes(b"old")
    with pytest.raises(type(error)):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_user_names_is_followed_and_not_replaced(tmp_path: Path):
    link, target, pipe = tmp_path / "link", tmp_path / "target", tmp_path / "pipe"
    link.symlink_to(target)
    write_to_user_path(link, lambda file: file.write(b"new"))
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_to_user_path(pipe, lambda file: file.write(b"through"))
    assert os.read(reader, 10) == b"through"
    os.close(reader)
    assert pipe.is_fifo()


def test_the_content_is_on_the_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, order = tmp_path / "file", []
    path.write_bytes(b"old")
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda number: (order.append(os.fstat(number).st_size), fsync(number)))
    monkeypatch.setattr(
        Path, "replace", lambda self, target: (order.append(target.read_bytes()), replace(self, target))
    )
    write_atomically(path, lambda file: file.write(b"whole"))
    assert order == [5, b"old"]  # until then a reader sees the old content
    assert path.read_bytes() == b"whole"


@pytest.mark.parametrize("value", [nan, inf, -inf])
def test_json_is_strict(tmp_path: Path, value: float):
    path = tmp_path / "file.json"
    write_json(path, {1: value, "b": {Path("c"): [1.5, value, (value, "NaN"), True]}})
    content = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert content == {"1": None, "b": {"c": [1.5, None, [None, "NaN"], True]}}
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(path, {"new": object()})
    assert json.loads(path.read_text()) == content
    line = to_json_line({"step": 1, "text": "a\nb", "loss": value})
    assert line.count("\n") == 1
    assert json.loads(line, parse_constant=pytest.fail) == {"step": 1, "text": "a\nb", "loss": None}


# Whether there is room


def test_a_check_of_a_directory_leaves_it_as_it_is(tmp_path: Path):
    (tmp_path / "file").touch()
    check_writable(tmp_path, "hydra.run.dir")
    check_writable(tmp_path / "a" / "b", "hydra.run.dir")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
    (tmp_path / "empty").mkdir()
    check_writable(tmp_path / "empty", "hydra.run.dir")
    assert (tmp_path / "empty").is_dir()


def test_a_directory_below_a_file_is_refused_by_its_key(tmp_path: Path):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "run"
    with pytest.raises(UserError, match=r"^hydra\.run\.dir=.* cannot be written to: ") as caught:
        check_writable(path, "hydra.run.dir")
    assert str(path) in str(caught.value)


def test_a_full_disk_is_refused_and_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(**arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", fail)
    with pytest.raises(UserError, match="No space left on device"):
        check_writable(tmp_path / "a" / "b", "hydra.run.dir")
    assert list(tmp_path.iterdir()) == []


def test_a_claimed_directory_belongs_to_one_caller(tmp_path: Path):
    path = tmp_path / "2026-11-27" / "12-00-00-6cb1ea67"
    with ThreadPoolExecutor(8) as pool:
        claimed = list(pool.map(claim_directory, [path] * 24))
    expected = {path, *(path.with_name(f"{path.name}-{number}") for number in range(2, 25))}
    assert set(claimed) == expected
    assert all(directory.is_dir() for directory in expected)
