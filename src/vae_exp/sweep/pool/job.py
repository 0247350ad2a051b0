"""A job of a pool: where it lies, how far it has come, how it ended."""

import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Any

from vae_exp.errors import Interrupted, RunLockedError, UserError
from vae_exp.storage.atomic_io import write_json
from vae_exp.storage.run_directory import RunDirectory, lock_run_directory
from vae_exp.sweep.job_records import last_metrics
from vae_exp.sweep.pool.slots import Slot
from vae_exp.sweep.pool.worker import Report
from vae_exp.sweep.run_job import FINISHED


class End(Enum):
    """How a job of a pool ended."""

    DONE = "done"
    SKIPPED = "finished before"
    ELSEWHERE = "already running"
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
        end: How it ended; None until then.
        reason: Why it did not finish.
        seconds: How long its process ran.
        metrics: Its last ones.
        retried: Whether it ran out of memory and is repeated with a GPU, or all cores, to itself.
    """

    number: int
    overrides: Sequence[str]
    directory: RunDirectory | None = None
    epochs: int = 0
    end: End | None = None
    status: str = "waiting"
    reason: str = ""
    seconds: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    monitor: str = ""
    retried: bool = False

    @property
    def name(self) -> str:
        """What it is called in tables."""
        return f"job {self.number}" if self.directory is None else self.directory.path.name


@dataclass
class Running:
    """A job in its process.

    Args:
        job: The job.
        slot: Where it runs.
        process: Its process.
        reports: The near end of the pipe on which the process reports.
        began: When it was started, in seconds of the monotonic clock.
        began_at: The same, in seconds since the epoch.
    """

    job: Job
    slot: Slot
    process: ForkServerProcess
    reports: Connection
    began: float
    began_at: float

    def report(self) -> Report | None:
        """What the task reported; None if its process ended without a word."""
        try:
            said: Report | None = self.reports.recv() if self.reports.poll() else None
        except (EOFError, OSError):
            said = None
        return said


def settle(job: Job, exit_code: int, report: Report | None, began_at: float, *, stopping: bool) -> None:
    """Find out how a job ended, and leave a `result.json` where its process could not.

    Args:
        job: The job.
        exit_code: Of its process; below zero the signal that ended it.
        report: What its task reported.
        began_at: When the process was started, in seconds since the epoch.
        stopping: Whether the whole sweep is being ended.
    """
    assert job.directory is not None
    ended_well = exit_code == 0 and report is not None and report.error is None
    result = _result(job.directory, None if ended_well else began_at)
    if ended_well and job.directory.is_locked():
        job.end, job.status = End.ELSEWHERE, "running"
        return
    if result is None and (report is None or report.error is None) and exit_code:
        result = _write_ended(job.directory, exit_code)
    status = str(result.get("status")) if result else "failed"
    error = str(result.get("error") or "") if result else ""
    reported = report.error if report else None
    job.status, job.reason = status, error or reported or ("" if status in FINISHED else "left no result")
    metrics = result.get("metrics") if result else None
    job.metrics = metrics if isinstance(metrics, dict) else {}
    job.monitor = str(result.get("monitor", "")) if result else ""
    if status in FINISHED and not job.directory.config.is_file():
        job.end, job.status, job.reason = End.FAILED, "lost", "its directory was removed while it ran"
    elif status in FINISHED:
        job.end, job.reason = End.DONE, ""
    else:
        job.end = End.STOPPED if stopping else End.FAILED


def _result(directory: RunDirectory, began_at: float | None) -> dict[str, Any] | None:
    """The result of a job; one from before a moment is that of an earlier attempt and does not count."""
    try:
        if began_at is not None and directory.result.stat().st_mtime < began_at - 1:
            return None
        return directory.read_result()
    except (OSError, UserError):
        return None


def _write_ended(directory: RunDirectory, exit_code: int) -> dict[str, Any]:
    """Write the result of a process that could not, unless another process has started the job again."""
    last = last_metrics(directory)
    result = {
        "status": "killed" if exit_code < 0 else "interrupted",
        "error": how_it_ended(exit_code),
        "epochs": int(last.get("epoch", 0)),
        "metrics": {key: value for key, value in last.items() if "/" in key},
    }
    try:
        with lock_run_directory(directory):
            write_json(directory.result, result)
    except (RunLockedError, OSError):
        pass
    return result


def how_it_ended(exit_code: int) -> str:
    """An exit code in words."""
    interrupted = Interrupted(signal.SIGINT)
    if exit_code == interrupted.exit_code:
        return str(interrupted)
    if exit_code >= 0:
        return f"exited with code {exit_code}"
    try:
        return f"killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"killed by signal {-exit_code}"
