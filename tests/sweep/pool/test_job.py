import json
import os
import time
from pathlib import Path

import pytest
from filelock import FileLock

from vae_exp.storage.run_directory import RunDirectory
from vae_exp.sweep.pool.job import Job, JobOutcome, describe_exit_code, finalize_job
from vae_exp.sweep.pool.worker import WorkerResult


@pytest.fixture
def job(tmp_path: Path) -> Job:
    directory = RunDirectory(tmp_path)
    directory.config.parent.mkdir()
    directory.config.write_text("{}")
    return Job(0, ["seed=0"], directory)


def write(job: Job, **result: object) -> None:
    assert job.directory is not None
    job.directory.result.write_text(json.dumps(result))


def result_of(job: Job) -> dict[str, object]:
    assert job.directory is not None
    found = job.directory.read_result()
    assert found is not None
    return found


def test_a_completed_job_is_done(job: Job):
    write(job, status="completed", metrics={"val/loss": 1.0}, monitor="val/loss")
    finalize_job(job, 0, WorkerResult(None), time.time(), stopping=False)
    assert (job.outcome, job.status, job.reason, job.metrics) == (
        JobOutcome.DONE,
        "completed",
        "",
        {"val/loss": 1.0},
    )


def test_a_job_whose_directory_was_removed_has_not_finished(job: Job):
    assert job.directory is not None
    write(job, status="completed", metrics={})
    job.directory.config.unlink()
    finalize_job(job, 0, WorkerResult(None), time.time(), stopping=False)
    assert (job.outcome, job.reason) == (JobOutcome.FAILED, "its directory was removed while it ran")


def test_a_job_that_failed_says_why_in_its_own_words(job: Job):
    write(job, status="failed", error="ValueError: no")
    finalize_job(job, 0, WorkerResult("no"), time.time(), stopping=False)
    assert (job.outcome, job.status, job.reason) == (JobOutcome.FAILED, "failed", "ValueError: no")


def test_a_killed_job_gets_a_result_that_says_so(job: Job):
    assert job.directory is not None
    job.directory.metrics.write_text('{"step": 12, "epoch": 3, "val/loss": 1.5}\n{"st')
    finalize_job(job, -9, None, time.time(), stopping=False)
    assert (job.outcome, job.status, job.reason) == (JobOutcome.FAILED, "killed", "killed by SIGKILL")
    assert result_of(job) == {
        "status": "killed",
        "error": "killed by SIGKILL",
        "epochs": 3,
        "metrics": {"val/loss": 1.5},
    }


def test_a_process_that_left_without_a_word_is_interrupted(job: Job):
    finalize_job(job, 7, None, time.time(), stopping=False)
    assert (job.status, result_of(job)["error"]) == ("interrupted", "exited with code 7")


def test_the_result_of_an_earlier_attempt_is_not_that_of_this_one(job: Job):
    write(job, status="failed", error="long ago")
    assert job.directory is not None
    os.utime(job.directory.result, (1, 1))
    finalize_job(job, -11, None, time.time(), stopping=False)
    assert (job.status, job.reason) == ("killed", "killed by SIGSEGV")


def test_a_directory_that_somebody_else_has_taken_up_is_left_alone(job: Job):
    assert job.directory is not None
    with FileLock(job.directory.lock):
        finalize_job(job, -9, None, time.time(), stopping=False)
    assert not job.directory.result.exists()
    assert job.reason == "killed by SIGKILL"


@pytest.mark.parametrize("code", [130, 143, -15])
def test_a_job_that_ends_with_the_sweep_was_stopped_and_alone_it_has_failed(job: Job, code: int):
    finalize_job(job, code, None, time.time(), stopping=True)
    assert job.outcome is JobOutcome.STOPPED
    finalize_job(job, code, None, time.time(), stopping=False)
    assert job.outcome is JobOutcome.FAILED


def test_a_job_that_another_process_was_at_is_in_other_hands(job: Job):
    assert job.directory is not None
    with FileLock(job.directory.lock):
        finalize_job(job, 0, WorkerResult(None), time.time(), stopping=False)
    assert job.outcome is JobOutcome.RUNNING_ELSEWHERE


def test_a_clock_that_is_late_does_not_hide_a_result(job: Job):
    write(job, status="completed", metrics={})
    assert job.directory is not None
    os.utime(job.directory.result, (1, 1))
    finalize_job(job, 0, WorkerResult(None), time.time(), stopping=False)
    assert job.outcome is JobOutcome.DONE


def test_a_corrupt_result_does_not_hide_how_it_ended(job: Job):
    assert job.directory is not None
    job.directory.result.write_text('{"status": "comp')
    finalize_job(job, 1, None, time.time(), stopping=False)
    assert (job.outcome, job.status, job.reason) == (JobOutcome.FAILED, "interrupted", "exited with code 1")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "exited with code 0"),
        (7, "exited with code 7"),
        (-9, "killed by SIGKILL"),
        (-200, "killed by signal 200"),
    ],
)
def test_exit_codes_in_words(code: int, words: str):
    assert describe_exit_code(code) == words
