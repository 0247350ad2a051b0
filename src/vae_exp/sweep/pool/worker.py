"""The process of a job, or of a stack of jobs."""

import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import cloudpickle

from vae_exp.errors import Interrupted, MemoryExhaustedError


@dataclass(frozen=True)
class JobTask:
    """A job of a group.

    Args:
        payload: Hydra's context, the task and the composed config, pickled; None if the job needs no process.
        output: The file that takes what it prints.
        epochs: How many a job has trained that needs no process.
        optimizer: In a stack, a word for the options of its optimizer and their schedule.
    """

    payload: bytes | None
    output: Path
    epochs: int = 0
    optimizer: str = ""


@dataclass(frozen=True)
class WorkerTask:
    """What the process of a group of jobs is given.

    Args:
        jobs: Those of the group; what the process itself prints goes where the first that needs it prints.
        largest: The `model` values that no job of a stack exceeds; None for a single job.
        environment: Set before anything else.
        threads: How many threads it computes with.
        grace_seconds: How long it may take to end in order once the launcher has died.
    """

    jobs: Sequence[JobTask]
    largest: Mapping[str, Any] | None
    environment: dict[str, str]
    threads: int
    grace_seconds: float


@dataclass(frozen=True)
class WorkerResult:
    """How the task of a job ended.

    Args:
        error: What it raised; None if nothing.
        out_of_memory: Whether that was for want of memory.
    """

    error: str | None
    out_of_memory: bool = False


def worker_main(task: WorkerTask, launcher: Connection) -> None:
    """Run a job in a fresh process, in a session of its own, and report to the launcher."""
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        os.setsid()  # Ctrl-C reaches the launcher alone, which then tells its jobs
        os.environ.update(task.environment)
        _redirect(next(job.output for job in task.jobs if job.payload is not None))
        faulthandler.enable()
        if "torch" in sys.modules:  # it was imported with the thread count of the first sweep of this process
            sys.modules["torch"].set_num_threads(task.threads)
        threading.Thread(target=_end_without_launcher, args=(task.grace_seconds,), daemon=True).start()
        launcher.send(_run(task))
    except KeyboardInterrupt:  # before the run listens for the signal itself
        sys.exit(Interrupted(signal.SIGINT).exit_code)


def _run(task: WorkerTask) -> list[WorkerResult]:
    if task.largest is not None:
        from vae_exp.sweep.stack_worker import run_stack

        errors = run_stack(task.jobs, task.largest)
    else:
        from hydra.core.utils import JobStatus

        from vae_exp.sweep.run_job import run_pickled

        [job] = task.jobs
        assert job.payload is not None
        ended = run_pickled(*cloudpickle.loads(job.payload))
        errors = [None if ended.status is JobStatus.COMPLETED else ended._return_value]
    return [
        WorkerResult(
            None if error is None else str(error) or type(error).__name__,
            out_of_memory=isinstance(error, MemoryError | MemoryExhaustedError),
        )
        for error in errors
    ]


def _redirect(output: Path) -> None:
    """Let a file take standard output and error, those of libraries below Python too."""
    with output.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)


def _end_without_launcher(grace_seconds: float) -> None:
    """End the job in order when its launcher has died, and by force when that takes too long."""
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace_seconds)
    os.killpg(0, signal.SIGKILL)
