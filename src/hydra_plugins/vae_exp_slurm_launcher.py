"""`hydra/launcher=slurm`: hydra-submitit-launcher, with the other jobs unaffected when one dies."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class SlurmLauncher(Launcher):
    """Submits a sweep as an array of Slurm, and waits for all of its jobs.

    Args:
        params: What `SlurmLauncher` of hydra-submitit-launcher takes.
    """

    def __init__(self, **params: Any) -> None:
        super().__init__()
        self._params = params
        self._launcher: Any = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Create the launcher of hydra-submitit-launcher.

        Raises:
            UserError: if hydra-submitit-launcher is not installed, or if there is no Slurm.
        """
        from vae_exp.errors import UserError

        try:
            from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher as Upstream
        except ImportError as error:
            message = f"hydra/launcher=slurm needs another package ({error}): pip install hydra-submitit-launcher."
            raise UserError(message) from error
        if shutil.which("srun") is None:
            raise UserError(
                "hydra/launcher=slurm: srun is not on PATH, so there is no Slurm here; use another launcher."
            )
        self._launcher = Upstream(**self._params)
        self._launcher.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; one that dies has an error in its return, and the others are waited for."""
        with _every_job_waited_for():
            results: Sequence[JobReturn] = self._launcher.launch(job_overrides, initial_job_idx)
        return results


class _Job:
    """A job of submitit whose end is a value, never an exception.

    Args:
        job: The job.
    """

    def __init__(self, job: Any) -> None:
        self._job = job

    def results(self) -> list[JobReturn]:
        from submitit.core.utils import FailedJobError, UncompletedJobError

        try:
            results: list[JobReturn] = self._job.results()
        except (FailedJobError, UncompletedJobError) as error:
            ended = JobReturn(status=JobStatus.FAILED)
            ended.return_value = RuntimeError(f"job {self._job.job_id}: {str(error).splitlines()[0]}")
            results = [ended]
        return results


@contextmanager
def _every_job_waited_for() -> Iterator[None]:
    """The launcher asks its executor for the result of one job after the other, and stops at the first bad one."""
    import submitit

    upstream = submitit.AutoExecutor

    class Patient(upstream):  # type: ignore[misc, valid-type]
        def map_array(self, fn: Any, *iterables: Any) -> list[_Job]:
            return [_Job(job) for job in super().map_array(fn, *iterables)]

    submitit.AutoExecutor = Patient  # type: ignore[misc]
    try:
        yield
    finally:
        submitit.AutoExecutor = upstream  # type: ignore[misc]
