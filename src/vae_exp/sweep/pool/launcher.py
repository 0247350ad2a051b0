"""The pool behind Hydra's launcher: compose jobs, run them, return their outcomes."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, setup_globals
from omegaconf import DictConfig, OmegaConf, open_dict

from vae_exp.errors import UserError
from vae_exp.storage.run_directory import RunDirectory
from vae_exp.sweep.pool.display import PoolDisplay
from vae_exp.sweep.pool.job import Job, JobGroup, JobOutcome
from vae_exp.sweep.pool.mps import share_gpus
from vae_exp.sweep.pool.pool import Pool
from vae_exp.sweep.pool.slots import SlotConfig
from vae_exp.sweep.run_job import JobAction, decide_action, save_overrides
from vae_exp.sweep.session import current_session

_UNFINISHED = (JobOutcome.FAILED, JobOutcome.STOPPED)


class PoolReturn(JobReturn):
    """The metrics of a job; to ask for those of one that failed does not end the sweep."""

    @property  # type: ignore[misc]  # Hydra's has a setter too
    def return_value(self) -> Any:
        """The final metrics."""
        return self._return_value


class PoolSweep:
    """A sweep whose jobs a pool runs.

    Args:
        hydra_context: Loads configs.
        task_function: What a job does with its config.
        config: The sweep's.
        settings: Where jobs may run.
        grace_seconds: How long a job may take to end in order when the sweep is stopped.

    Raises:
        UserError: on Windows, and if there is nowhere to run them.
    """

    def __init__(
        self,
        hydra_context: Any,
        task_function: Any,
        config: DictConfig,
        settings: SlotConfig,
        grace_seconds: float,
    ) -> None:
        if sys.platform == "win32":
            raise UserError(
                "hydra/launcher=pool and hydra/launcher=stacked fork their jobs, which Windows cannot; say "
                "hydra/launcher=basic, which runs one job after the other, or work in WSL."
            )
        setup_globals()
        configure_log(config.hydra.hydra_logging, config.hydra.verbose)
        self._hydra_context, self._task_function, self._config = hydra_context, task_function, config
        self._slots = settings.find(str(OmegaConf.select(config, "trainer.device") or "auto"))
        self._grace_seconds = grace_seconds
        self._share_gpus = partial(share_gpus, mode=settings.mps)
        Path(str(config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)

    def launch(self, job_overrides: Sequence[Sequence[str]], first_number: int) -> list[PoolReturn]:
        """Run jobs that are known from the start.

        Args:
            job_overrides: One list per job.
            first_number: The number of the first of them.

        Raises:
            SystemExit: on Ctrl-C or SIGTERM, once every job has ended.
        """
        jobs = [
            Job(first_number + index, filter_overrides(overrides)) for index, overrides in enumerate(job_overrides)
        ]
        self._run(jobs, len(jobs), 0, lambda job: None, in_batches=False)
        return [
            PoolReturn(
                overrides=job.overrides,
                status=JobStatus.FAILED if job.outcome in _UNFINISHED else JobStatus.COMPLETED,
                _return_value=job.metrics,
            )
            for job in jobs
        ]

    def stream(
        self, jobs: Iterable[Job], total: int, done: int = 0, on_end: Callable[[Job], None] = lambda job: None
    ) -> None:
        """Run jobs that become known one after the other.

        Args:
            jobs: Each is taken when a slot is free.
            total: How many there will be, with those that are done.
            done: How many of them an earlier command has run.
            on_end: Called with every job that has ended.

        Raises:
            SystemExit: on Ctrl-C or SIGTERM, once every job has ended.
        """
        self._run(jobs, total, done, on_end, in_batches=True)

    def _run(
        self, jobs: Iterable[Job], total: int, done: int, on_end: Callable[[Job], None], *, in_batches: bool
    ) -> None:
        ended: list[Job] = []

        def note(job: Job) -> None:
            ended.append(job)
            on_end(job)

        display = PoolDisplay(total, len(self._slots), done=done)
        try:
            pool = Pool(self._slots, self._compose, self._grace_seconds, display, self._share_gpus)
            pool.run(self._groups(jobs, total, display, in_batches=in_batches), note)
        finally:
            current_session().add_failures(sum(job.outcome in _UNFINISHED for job in ended), len(ended))

    def _groups(
        self, jobs: Iterable[Job], total: int, display: PoolDisplay, *, in_batches: bool
    ) -> Iterator[JobGroup]:
        """The jobs as those that one process runs.

        Args:
            jobs: As they become known.
            total: How many there will be at most.
            display: Takes lines about them.
            in_batches: Whether later jobs may depend on the results of earlier ones.
        """
        return (JobGroup([job]) for job in jobs)

    def composed(self, job: Job) -> DictConfig:
        """The config of a job, which then has its directory and its number of epochs."""
        if job.composed is None:
            config = self._hydra_context.config_loader.load_sweep_config(self._config, list(job.overrides))
            with open_dict(config):
                config.hydra.job.id = config.hydra.job.num = job.number
            job.directory = _directory(config)
            job.epochs = int(config.trainer.epochs)
            job.composed = config
        return job.composed

    def _compose(self, job: Job) -> bytes | None:
        config = self.composed(job)
        config.hydra.sweep.subdir = str(config.hydra.sweep.subdir)  # a later command may have named it meanwhile
        job.directory = _directory(config)
        job.composed = None
        if decide_action(job.directory, config) is JobAction.SKIP:
            save_overrides(job.directory, job.overrides)
            return None
        task = self._hydra_context, self._task_function, config, Singleton.get_state()
        payload: bytes = cloudpickle.dumps(task)
        return payload


def _directory(config: DictConfig) -> RunDirectory:
    return RunDirectory(Path(str(config.hydra.sweep.dir)) / str(config.hydra.sweep.subdir))
