"""A job in a process that knows nothing yet: of a pool, or on another machine."""

from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, run_job, setup_globals
from omegaconf import DictConfig

from vae_exp.sweep.job_id import register_resolvers


def run_pickled(hydra_context: Any, task_function: Any, config: DictConfig, state: Any) -> JobReturn:
    """Run a job as Hydra's basic launcher would.

    Args:
        hydra_context: Loads configs.
        task_function: What a job does with its config.
        config: The job's, composed.
        state: Of Hydra's singletons, where the sweep was started.
    """
    setup_globals()
    register_resolvers()
    Singleton.set_state(state)
    return run_job(
        hydra_context=hydra_context,
        task_function=task_function,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
