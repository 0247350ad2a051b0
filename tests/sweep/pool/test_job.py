import json
import os
import time
from pathlib import Path

import pytest
from filelock import FileLock

from vae_exp.storage.run_directory import RunDirectory
from vae_exp.sweep.pool.job import Job, JobOutcome, describe_exit_code, finalize_job
from vae_exp.sweep.pool.worker import WorkerResult

COMPLETED = {"status": "completed", "metrics": {"val/loss": 1.0}, "monitor": "val/loss"}
NO_ERROR = WorkerResult(None)


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    directory = RunDirectory(tmp_path)
    directory.config.parent.mkdir()
    directory.config.write_text("{}")
    return directory


def finalized(
    directory: RunDirectory, code: int, worker_result: WorkerResult | None = None, stopping: bool = False
) -> tuple[JobOutcome | None, str, str]:
    job = Job(0, ["seed=0"], directory)
    finalize_job(job, code, worker_result, time.time(), stopping=stopping)
    return job.outcome, job.status, job.reason


def test_a_completed_job_is_done_whatever_the_clock_says(directory: RunDirectory):
    directory.result.write_text(json.dumps(COMPLETED))
    job = Job(0, ["seed=0"], directory)
    finalize_job(job, 0, NO_ERROR, time.time(), stopping=False)
    assert (job.outcome, job.status, job.reason, job.metrics, job.monitor) == (
        JobOutcome.DONE, "completed", "", {"val/loss": 1.0}, "val/loss",
    )  # fmt: skip
    os.utime(directory.result, (1, 1))
    assert finalized(directory, 0, NO_ERROR) == (JobOutcome.DONE, "completed", "")
    directory.config.unlink()
    removed = (JobOutcome.FAILED, "failed", "its directory was removed while it ran")
    assert finalized(directory, 0, NO_ERROR) == removed


def test_a_killed_job_gets_a_result_that_says_so(directory: RunDirectory):
    directory.metrics.write_text('{"step": 12, "epoch": 3, "val/loss": 1.5}\n{"st')
    assert finalized(directory, -9) == (JobOutcome.FAILED, "killed", "killed by SIGKILL")
    metrics = {"val/loss": 1.5}
    result = {"status": "killed", "error": "killed by SIGKILL", "epochs": 3, "metrics": metrics}
    assert directory.read_result() == result


@pytest.mark.parametrize(
    ("text", "age", "code", "worker_result", "status", "reason"),
    [
        ('{"status": "failed", "error": "ValueError: no"}', 0, 0, WorkerResult("no"), "failed", "ValueError: no"),
        (None, 0, 7, None, "interrupted", "exited with code 7"),
        ('{"status": "failed", "error": "long ago"}', 100, -11, None, "killed", "killed by SIGSEGV"),
        ('{"status": "comp', 0, 1, None, "interrupted", "exited with code 1"),
    ],
    ids=["its own error", "no result", "of an earlier attempt", "corrupt"],
)
def test_a_failed_job_says_why(
    directory: RunDirectory, text: str, age: int, code: int, worker_result: WorkerResult, status: str, reason: str
):
    if text is not None:
        directory.result.write_text(text)
        os.utime(directory.result, (time.time() - age,) * 2)
    assert finalized(directory, code, worker_result) == (JobOutcome.FAILED, status, reason)


def test_a_directory_that_another_process_has_locked_is_left_alone(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("vae_exp.storage.run_directory._LOCK_TIMEOUT", 0.05)
    with FileLock(directory.lock):
        assert finalized(directory, 0, NO_ERROR)[0] is JobOutcome.RUNNING_ELSEWHERE
        assert finalized(directory, -9)[2] == "killed by SIGKILL"
    assert not directory.result.exists()


@pytest.mark.parametrize("code", [130, 143, -15])
def test_a_job_that_ends_with_the_sweep_was_stopped_and_alone_it_has_failed(directory: RunDirectory, code: int):
    assert finalized(directory, code, stopping=True)[0] is JobOutcome.STOPPED
    assert finalized(directory, code)[0] is JobOutcome.FAILED


@pytest.mark.parametrize(("code", "text"), [(0, "exited with code 0"), (-200, "killed by signal 200")])
def test_an_exit_code_is_described(code: int, text: str):
    assert describe_exit_code(code) == text
