"""The process of a job."""

import faulthandler
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path

import cloudpickle

from vae_exp.errors import Interrupted, MemoryExhaustedError


@dataclass(frozen=True)
class WorkerTask:
    """What the process of a job is given.

    Args:
        payload: Hydra's context, the task and the composed config, pickled.
        output: The file that takes what the job prints.
        environment: Set before anything else.
        threads: How many threads it computes with.
        grace_seconds: How long it may take to end in order once the launcher has died.
    """

    payload: bytes
    output: Path
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
        _redirect(task.output)
        faulthandler.enable()
        if "torch" in sys.modules:  # it was imported with the thread count of the first sweep of this process
            sys.modules["torch"].set_num_threads(task.threads)
        threading.Thread(target=_end_without_launcher, args=(task.grace_seconds,), daemon=True).start()
        launcher.send(_run(task.payload))
    except KeyboardInterrupt:  # before the run listens for the signal itself
        sys.exit(Interrupted(signal.SIGINT).exit_code)


def _run(payload: bytes) -> WorkerResult:
    from hydra.core.utils import JobStatus

    from vae_exp.sweep.run_job import run_pickled

    ended = run_pickled(*cloudpickle.loads(payload))
    if ended.status is JobStatus.COMPLETED:
        return WorkerResult(None)
    error = ended._return_value
    reason = str(error) or type(error).__name__
    return WorkerResult(reason, out_of_memory=isinstance(error, MemoryError | MemoryExhaustedError))


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
