import pickle
import signal
from multiprocessing import get_context
from pathlib import Path

from vae_exp.sweep.pool.job import describe_exit_code
from vae_exp.sweep.pool.worker import JobTask, WorkerTask, worker_main


class InterruptedWhileLoading:
    """A job that receives SIGINT before its run has installed a handler."""

    def __reduce__(self):
        return interrupt, ()


def interrupt():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell job starts with SIGINT ignored
    signal.raise_signal(signal.SIGINT)


def test_a_job_interrupted_before_its_run_starts_ends_by_ctrl_c(tmp_path: Path):
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    payload = pickle.dumps(InterruptedWhileLoading())
    job = context.Process(
        target=worker_main, args=(WorkerTask([JobTask(payload, tmp_path / "train.log")], None, {}, 1, 1.0), theirs)
    )
    job.start()
    job.join(60)
    ours.close()
    assert job.exitcode == 128 + signal.SIGINT
    assert describe_exit_code(job.exitcode) == "by Ctrl-C"
