"""The pool with tasks that end in a chosen way, without training."""

import multiprocessing
import os
import signal
import threading
import time
from itertools import pairwise
from pathlib import Path

import cloudpickle
import pytest
from hydra.conf import HydraConf
from omegaconf import OmegaConf

from vae_exp.errors import MemoryExhaustedError
from vae_exp.storage.atomic_io import write_json
from vae_exp.storage.run_directory import RunDirectory
from vae_exp.sweep.pool.display import PoolDisplay
from vae_exp.sweep.pool.job import Job, JobGroup, JobOutcome
from vae_exp.sweep.pool.pool import Pool
from vae_exp.sweep.pool.slots import Slot

pytestmark = pytest.mark.timeout(120)


class Task:
    """A task that notes when and where it ran, then does something."""

    def __init__(self, folder: Path, ending: str) -> None:
        self.folder, self.ending = folder, ending

    def __call__(self, config) -> None:
        directory = RunDirectory(Path(config.path))
        start = time.monotonic()
        time.sleep(0.3)
        while self.ending == "long" and len(spans(self.folder, "*-memory")) < 2 and time.monotonic() < start + 30:
            time.sleep(0.05)
        if self.ending == "stubborn":
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            (directory.path / "is stubborn").touch()
            time.sleep(100)
        attempts = directory.path / "attempts.txt"
        again = attempts.exists()
        with attempts.open("a") as file:
            gpu, threads = os.environ.get("CUDA_VISIBLE_DEVICES") or "none", os.environ.get("OMP_NUM_THREADS")
            file.write(f"{start} {time.monotonic()} {gpu} {threads}\n")
        print("printed by the job", flush=True)
        if self.ending == "memory" and not again:
            raise MemoryExhaustedError("cpu ran out of memory")
        if self.ending == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.ending == "raise":
            raise ValueError("as it was asked to")
        if self.ending == "verbose":  # more than a pipe holds
            raise ValueError("x" * 200_000)
        write_json(directory.config, {})
        write_json(directory.result, {"status": "completed", "metrics": {"val/elbo": -1.0}})


def run(folder: Path, endings: list[str], slots: list[Slot], grace_seconds: float = 5.0) -> list[Job]:
    jobs = [Job(number, [ending]) for number, ending in enumerate(endings)]

    def compose(job: Job) -> bytes | None:
        [ending] = job.overrides
        if ending == "compose":
            raise ValueError("cannot be composed")
        path = folder / f"{job.number}-{ending}"
        hydra = OmegaConf.structured(HydraConf)
        hydra.sweep.dir, hydra.sweep.subdir, hydra.output_subdir = str(folder), path.name, None
        hydra.job_logging = {"version": 1, "root": {"level": "INFO"}}
        config = OmegaConf.create({"path": str(path), "hydra": hydra})
        job.directory, job.epochs = RunDirectory(path), 1
        return None if ending == "skip" else pickled(Task(folder, ending), config)

    Pool(slots, compose, grace_seconds, PoolDisplay(len(jobs), len(slots))).run(JobGroup([job]) for job in jobs)
    return jobs


def pickled(task, config) -> bytes:
    from hydra._internal.callbacks import Callbacks
    from hydra.core.singleton import Singleton
    from hydra.types import HydraContext

    cloudpickle.register_pickle_by_value(__import__(__name__, fromlist=["x"]))
    context = HydraContext(config_loader=None, callbacks=Callbacks())
    return cloudpickle.dumps((context, task, config, Singleton.get_state()))


def spans(folder: Path, job: str = "*") -> list[tuple[float, float, str, str]]:
    lines = [line.split() for path in folder.glob(f"{job}/attempts.txt") for line in path.read_text().splitlines()]
    return sorted((float(start), float(ended), gpu, threads) for start, ended, gpu, threads in lines)


def test_each_job_ends_as_it_did_and_the_others_do_not_mind(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    jobs = run(
        tmp_path,
        ["fine", "raise", "kill", "skip", "compose", "fine", "verbose"],
        [Slot(0, None, 1), Slot(1, None, 1)],
    )
    done, failed = JobOutcome.DONE, JobOutcome.FAILED
    assert [job.outcome for job in jobs] == [done, failed, failed, JobOutcome.SKIPPED, failed, done, failed]
    assert jobs[6].reason == "x" * 200_000
    assert jobs[1].reason == "as it was asked to"
    assert jobs[2].reason == "killed by SIGKILL"
    assert "cannot be composed" in jobs[4].reason
    out = capsys.readouterr().out
    assert out.count("completed") == 2
    assert "[7/7]" in out
    assert "printed by the job" in (tmp_path / "0-fine" / "output.log").read_text()


def test_slots_are_shared_and_each_job_sees_its_own_gpu_and_threads(tmp_path: Path):
    run(tmp_path, ["fine"] * 6, [Slot(0, "3", 2), Slot(1, "5", 2)])
    attempts = spans(tmp_path)
    assert {gpu for _, _, gpu, _ in attempts} == {"3", "5"}
    assert {threads for _, _, _, threads in attempts} == {"2"}
    for gpu in ("3", "5"):
        own = [(start, ended) for start, ended, where, _ in attempts if where == gpu]
        assert all(ended <= start for (_, ended), (start, _) in pairwise(own))


def test_a_job_that_ran_out_of_memory_is_run_once_more_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    jobs = run(tmp_path, ["memory", "fine", "fine"], [Slot(0, None, 1), Slot(1, None, 1)])
    assert [job.outcome for job in jobs] == [JobOutcome.DONE] * 3
    attempts = spans(tmp_path)
    assert len(attempts) == 4
    last, others = attempts[-1], attempts[:-1]
    assert all(ended <= last[0] for _, ended, _, _ in others)
    assert "is repeated when no other job shares its GPU" in capsys.readouterr().out


def test_a_job_that_ran_out_of_memory_has_one_gpu_to_itself_not_the_node(tmp_path: Path):
    slots = [Slot(0, "3", 1), Slot(1, "5", 1), Slot(2, "3", 1), Slot(3, "5", 1)]
    jobs = run(tmp_path, ["memory", "long", "fine", "fine", "fine"], slots)
    assert [job.outcome for job in jobs] == [JobOutcome.DONE] * 5
    [long] = spans(tmp_path, "1-long")
    _, repeated = spans(tmp_path, "0-memory")
    assert repeated[0] < long[1], "the repeated job waited for the other GPU"
    beside = [span for span in spans(tmp_path) if span[2] == repeated[2] and span != repeated]
    assert all(end <= repeated[0] or repeated[1] <= start for start, end, _, _ in beside)


def test_a_job_with_a_gpu_to_itself_is_not_repeated(tmp_path: Path):
    jobs = run(tmp_path, ["memory", "fine"], [Slot(0, "3", 1), Slot(1, "5", 1)])
    assert [job.outcome for job in jobs] == [JobOutcome.FAILED, JobOutcome.DONE]
    assert "out of memory" in jobs[0].reason


@pytest.mark.usefixtures("restored_signals")
@pytest.mark.parametrize(
    ("numbers", "grace_seconds"), [([signal.SIGINT, signal.SIGTERM], 60.0), ([signal.SIGINT], 0.5)]
)
def test_a_second_signal_or_too_long_a_wait_kills_jobs_that_do_not_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], numbers: list[signal.Signals], grace_seconds: float
):
    def send() -> None:
        while len([*tmp_path.glob("*/is stubborn")]) < 2:
            time.sleep(0.05)
        for number in numbers:
            os.kill(os.getpid(), number)
            time.sleep(0.3)

    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(SystemExit) as end:
        run(tmp_path, ["stubborn", "stubborn", "fine"], [Slot(0, None, 1), Slot(1, None, 1)], grace_seconds)
    sender.join()
    assert end.value.code == 128 + signal.SIGINT
    assert multiprocessing.active_children() == []
    assert capsys.readouterr().out.count("stopped  ") == 2
    assert not (tmp_path / "2-fine").exists()
