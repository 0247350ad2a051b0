"""A job of a pool: its directory, its progress, its outcome."""

import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from omegaconf import DictConfig

from vae_exp.errors import Interrupted, RunLockedError, UserError
from vae_exp.storage.atomic_io import write_json
from vae_exp.storage.run_directory import RunDirectory, lock_run_directory
from vae_exp.sweep.job_records import last_metrics
from vae_exp.sweep.pool.slots import Slot
from vae_exp.sweep.pool.worker import WorkerResult
from vae_exp.sweep.run_job import FINISHED


class JobOutcome(Enum):
    """How a job of a pool ended."""

    DONE = "done"
    SKIPPED = "finished before"
    RUNNING_ELSEWHERE = "already running"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass
class Job:
    """A job of a pool.

    Args:
        number: Hydra's number of it.
        overrides: What it is started with.
        directory: Known once its config is composed.
        epochs: How many it will have.
        outcome: How it ended; None until then.
        reason: Why it did not finish.
        seconds: How long its process ran, in a stack its share of that.
        metrics: Its last ones.
        composed: Its config, once it is known and until it is started.
        optimizer: In a stack, a word for the options of its optimizer and their schedule.
        retried: Whether it ran out of memory and is repeated with a GPU, or all cores, to itself.
    """

    number: int
    overrides: Sequence[str]
    directory: RunDirectory | None = None
    epochs: int = 0
    outcome: JobOutcome | None = None
    status: str = "waiting"
    reason: str = ""
    seconds: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    monitor: str = ""
    retried: bool = False
    composed: DictConfig | None = None
    optimizer: str = ""

    @property
    def name(self) -> str:
        """What it is called in tables."""
        return f"job {self.number}" if self.directory is None else self.directory.path.name


@dataclass
class JobGroup:
    """Jobs that one process runs: a single one, or those of a stack.

    Args:
        jobs: Those that are to run, and those that have been run before.
        largest: The `model` values that no job of a stack exceeds; None for a single job.
    """

    jobs: list[Job]
    largest: Mapping[str, Any] | None = None

    def halves(self) -> list["JobGroup"]:
        """Two groups in its place; one of a single job is no stack."""
        middle = len(self.jobs) // 2
        parts = self.jobs[:middle], self.jobs[middle:]
        return [JobGroup(jobs, self.largest if len(jobs) > 1 else None) for jobs in parts]


@dataclass
class RunningJobs:
    """The jobs of a group in their process.

    Args:
        group: The group.
        jobs: Those of it that run.
        slot: Where it runs.
        process: Its process.
        results: The launcher's end of the pipe on which the worker sends its result.
        start: When it was started, in seconds of the monotonic clock.
        started_at: The same, in seconds since the epoch.
    """

    group: JobGroup
    jobs: list[Job]
    slot: Slot
    process: BaseProcess
    results: Connection
    start: float
    started_at: float
    _received: list[WorkerResult | None] | None = None

    @property
    def seconds_per_job(self) -> float:
        """How long its process has run, shared among the jobs."""
        return (time.monotonic() - self.start) / len(self.jobs)

    @property
    def is_exclusive(self) -> bool:
        """Whether no other job may share its GPU, or the cores."""
        return any(job.retried for job in self.jobs)

    def receive_results(self) -> list[WorkerResult | None]:
        """What the worker has sent of each job; None if it has not, or its process ended before that."""
        with suppress(EOFError, OSError):
            if self._received is None and self.results.poll():
                self._received = self.results.recv()
        return self._received or [None] * len(self.jobs)


def finalize_job(
    job: Job, exit_code: int, worker_result: WorkerResult | None, started_at: float, *, stopping: bool
) -> None:
    """Set the outcome of a job, and write a `result.json` if its process could not.

    Args:
        job: The job.
        exit_code: Of its process; below zero the signal that ended it.
        worker_result: What its worker sent.
        started_at: When the process was started, in seconds since the epoch.
        stopping: Whether the whole sweep is being ended.
    """
    assert job.directory is not None
    succeeded = exit_code == 0 and worker_result is not None and worker_result.error is None
    if succeeded and job.directory.is_locked():
        job.outcome, job.status = JobOutcome.RUNNING_ELSEWHERE, "running"
        return
    raised = worker_result.error if worker_result else None
    result = _result(job.directory, None if succeeded else started_at)
    if result is None and raised is None and exit_code:
        result = _write_missing_result(job.directory, exit_code)
    result = result or {}
    metrics = result.get("metrics")
    job.metrics = metrics if isinstance(metrics, dict) else {}
    job.monitor = str(result.get("monitor", ""))
    job.status = str(result.get("status", "failed"))
    if job.status not in FINISHED:
        job.outcome = JobOutcome.STOPPED if stopping else JobOutcome.FAILED
        job.reason = str(result.get("error") or raised or "left no result")
    elif job.directory.config.is_file():
        job.outcome = JobOutcome.DONE
    else:
        job.outcome, job.status, job.reason = JobOutcome.FAILED, "failed", "its directory was removed while it ran"


def epochs_trained(job: Job) -> int:
    """How many epochs a job has trained that needs no process; 0 where it is not finished."""
    if job.directory is None or job.outcome is not JobOutcome.SKIPPED:
        return 0
    epochs = (_result(job.directory, None) or {}).get("epochs")
    return epochs if isinstance(epochs, int) else 0


def _result(directory: RunDirectory, started_at: float | None) -> dict[str, Any] | None:
    """The result of a job; one from before a moment is that of an earlier attempt and does not count."""
    try:
        if started_at is not None and directory.result.stat().st_mtime < started_at - 1:
            return None
        return directory.read_result()
    except (OSError, UserError):
        return None


def _write_missing_result(directory: RunDirectory, exit_code: int) -> dict[str, Any]:
    """Write the result of a process that could not, unless another process has started the job again."""
    last = last_metrics(directory)
    result = {
        "status": "killed" if exit_code < 0 else "interrupted",
        "error": describe_exit_code(exit_code),
        "epochs": int(last.get("epoch", 0)),
        "metrics": {key: value for key, value in last.items() if "/" in key},
    }
    with suppress(RunLockedError, OSError), lock_run_directory(directory):
        write_json(directory.result, result)
    return result


def describe_exit_code(exit_code: int) -> str:
    """Why a process ended, by its exit code."""
    interrupted = Interrupted(signal.SIGINT)
    if exit_code == interrupted.exit_code:
        return str(interrupted)
    if exit_code >= 0:
        return f"exited with code {exit_code}"
    try:
        return f"killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"killed by signal {-exit_code}"
