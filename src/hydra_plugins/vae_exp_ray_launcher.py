"""`hydra/launcher=ray`: hydra-ray-launcher, with the other jobs unaffected when one dies."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict


class RayLauncher(Launcher):
    """Runs every job as a task of Ray, on this machine or on a cluster.

    Args:
        ray: `init`, what `ray.init` takes, and `remote`, what a task asks for.
    """

    def __init__(self, ray: DictConfig) -> None:
        super().__init__()
        self._ray = ray
        self._context: tuple[HydraContext, TaskFunction] | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store what the jobs need.

        Raises:
            UserError: if Ray or its launcher is not installed.
        """
        from vae_exp.errors import UserError

        try:
            import hydra_plugins.hydra_ray_launcher.ray_launcher  # noqa: F401
        except ImportError as error:
            message = f"hydra/launcher=ray needs other packages ({error}): pip install hydra-ray-launcher ray."
            raise UserError(message) from error
        self.config, self._context = config, (hydra_context, task_function)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; one that dies has an error in its return, and the others continue."""
        import ray
        from hydra_plugins.hydra_ray_launcher._launcher_util import start_ray

        from vae_exp.sweep.run_job import run_pickled

        assert self._context is not None, "Hydra calls setup first"
        assert self.config is not None
        hydra_context, task_function = self._context
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        start_ray(self._ray.init)
        options: Any = OmegaConf.to_container(self._ray.remote, resolve=True)
        task = ray.remote(**options)(run_pickled)
        running = []
        for number, overrides in enumerate(job_overrides, start=initial_job_idx):
            composed = hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
            with open_dict(composed):
                composed.hydra.job.id = composed.hydra.job.num = number
            running.append(task.remote(hydra_context, task_function, composed, Singleton.get_state()))
        return [_ended(ray, job, overrides) for job, overrides in zip(running, job_overrides, strict=True)]


def _ended(ray: Any, job: Any, overrides: Sequence[str]) -> JobReturn:
    """What a job returned; a failure where its process died."""
    try:
        result: JobReturn = ray.get(job)
    except ray.exceptions.RayError as error:
        result = JobReturn(overrides=list(overrides), status=JobStatus.FAILED)
        result.return_value = RuntimeError(str(error).splitlines()[0])
    return result
