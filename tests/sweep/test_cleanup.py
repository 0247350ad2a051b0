from pathlib import Path

import pytest
from filelock import FileLock

from tests.sweep.sweeps import make_job
from vae_exp.errors import UserError
from vae_exp.sweep.cleanup import find_removable, remove
from vae_exp.sweep.manifest import add_command


def _sweep(folder: Path) -> Path:
    add_command(folder, [], folder, [])
    return folder


def _checkpoint(job: Path) -> None:
    (job / "checkpoints").mkdir()
    (job / "checkpoints" / "last.pt").write_bytes(b"0" * 1000)


def test_what_failed_and_what_was_set_aside_can_go_and_the_rest_stays(tmp_path: Path):
    done = make_job(tmp_path, ["a=1"])
    (done / "previous" / "1").mkdir(parents=True)
    (done / "previous" / "1" / "old.txt").write_text("12345")
    failed = make_job(tmp_path, ["a=2"], "failed")
    half = make_job(tmp_path, ["a=3"], "interrupted")
    lost = make_job(tmp_path, ["a=4"], None)
    (failed / "notes.md").write_text("learning rate too high")
    for job in (done, half):
        _checkpoint(job)
    removable = find_removable(_sweep(tmp_path), checkpoints=False)
    assert {entry.path for entry in removable} == {done / "previous" / "1", failed, lost}
    assert next(entry.size for entry in removable if entry.reason == "set aside") == 5
    assert next(entry.reason for entry in removable if entry.path == failed) == "failed, with its notes"
    assert remove(removable, checkpoints=False) == []
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {done.name, half.name}
    assert (done / "result.json").exists()


def test_checkpoints_of_finished_jobs_can_go_too(tmp_path: Path):
    done, half = make_job(tmp_path, ["a=1"]), make_job(tmp_path, ["a=2"], "interrupted")
    for job in (done, half):
        _checkpoint(job)
    [removable] = find_removable(_sweep(tmp_path), checkpoints=True)
    assert removable.path == done / "checkpoints" / "last.pt"


def test_a_job_that_runs_is_never_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("vae_exp.storage.run_directory._LOCK_TIMEOUT", 0.05)
    job = make_job(tmp_path, ["a=1"], "failed")
    [removable] = find_removable(_sweep(tmp_path), checkpoints=False)
    with FileLock(job / ".lock"):
        assert find_removable(_sweep(tmp_path), checkpoints=False) == []
        [problem] = remove([removable], checkpoints=False)
    assert "another process" in problem
    assert job.is_dir()


def test_what_has_come_to_something_meanwhile_is_not_removed(tmp_path: Path):
    job = make_job(tmp_path, ["a=1"], "failed")
    removable = find_removable(_sweep(tmp_path), checkpoints=False)
    (job / "result.json").write_text('{"status": "completed"}')
    [problem] = remove(removable, checkpoints=False)
    assert "has been restarted" in problem
    assert job.is_dir()


def test_a_job_with_its_best_checkpoint_alone_can_go_on_and_stays(tmp_path: Path):
    job = make_job(tmp_path, ["a=1"], None)
    (job / "checkpoints").mkdir()
    (job / "checkpoints" / "best.pt").write_bytes(b"0")
    assert find_removable(_sweep(tmp_path), checkpoints=True) == []


def test_a_folder_that_is_no_sweep_is_left_alone(tmp_path: Path):
    make_job(tmp_path, ["a=1"], "failed")
    with pytest.raises(UserError, match=r"has no sweep\.json"):
        find_removable(tmp_path, checkpoints=False)


def test_nothing_outside_the_sweep_is_removed_through_a_link(tmp_path: Path):
    job, outside = make_job(tmp_path / "sweep", ["a=1"]), tmp_path / "outside"
    outside.mkdir()
    (outside / "last.pt").write_bytes(b"0")
    (job / "checkpoints").symlink_to(outside)
    with pytest.raises(UserError, match=r"checkpoints leads out of .*sweep, to .*outside"):
        find_removable(_sweep(tmp_path / "sweep"), checkpoints=True)
    assert (outside / "last.pt").exists()
