"""What Hydra's launcher asks of the pool: compose jobs, run them, say what came of each."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, setup_globals
from omegaconf import DictConfig, OmegaConf, open_dict

from vae_exp.run_directory import RunDirectory
from vae_exp.sweep.attempt import Attempt, next_attempt, note_words
from vae_exp.sweep.pool.display import PoolDisplay
from vae_exp.sweep.pool.job import End, Job
from vae_exp.sweep.pool.pool import Composed, Pool
from vae_exp.sweep.pool.slots import SlotSettings
from vae_exp.sweep.pool.worker import pickled
from vae_exp.sweep.recorder import recorder


class PoolReturn(JobReturn):
    """What a sweeper is given of a job; asking for the value of one that failed does not end the sweep.

    Args:
        job: The job, ended.
    """

    def __init__(self, job: Job) -> None:
        super().__init__(overrides=list(job.overrides))
        self.job = job
        well = job.end in (End.DONE, End.SKIPPED, End.ELSEWHERE)
        self.status = JobStatus.COMPLETED if well else JobStatus.FAILED

    @property
    def return_value(self) -> Any:
        """The final metrics."""
        return self.job.metrics

    @return_value.setter
    def return_value(self, value: Any) -> None:
        raise AttributeError("a job of a pool returns its metrics")


def launch(
    hydra_context: Any,
    task_function: Any,
    config: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    first_number: int,
    settings: SlotSettings,
    grace_seconds: float,
) -> list[PoolReturn]:
    """Run the jobs of a sweep on this node.

    Args:
        hydra_context: Loads configs.
        task_function: What a job does with its config.
        config: The sweep's.
        job_overrides: One list per job.
        first_number: The number of the first of them.
        settings: Where jobs may run.
        grace_seconds: How long a job may take to end in order when the sweep is stopped.

    Raises:
        UserError: if there is nowhere to run them.
        SystemExit: on Ctrl-C or SIGTERM, once every job has ended.
    """
    setup_globals()
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    slots = settings.find(str(OmegaConf.select(config, "trainer.device") or "auto"))
    Path(str(config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)

    def compose(job: Job) -> Composed:
        composed = hydra_context.config_loader.load_sweep_config(config, list(job.overrides))
        with open_dict(composed):
            composed.hydra.job.id = composed.hydra.job.num = job.number
        place = Path(str(composed.hydra.sweep.dir)) / str(composed.hydra.sweep.subdir)
        directory = RunDirectory(place)
        attempt = next_attempt(directory, composed)
        if attempt is Attempt.SKIP:
            note_words(directory, job.overrides)
        epochs = int(composed.trainer.epochs)
        return Composed(directory, epochs, attempt, lambda: pickled(hydra_context, task_function, composed))

    jobs = [Job(first_number + number, filter_overrides(each)) for number, each in enumerate(job_overrides)]
    try:
        Pool(slots, compose, grace_seconds, PoolDisplay(len(jobs), len(slots))).run(jobs)
    finally:
        recorder.note([f"{job.name}: {job.reason}" for job in jobs if job.end is End.FAILED], len(jobs))
    return [PoolReturn(job) for job in jobs]
