"""The process of a stack: its jobs are set up one after another, and train as one."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cloudpickle
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from vae_exp.configuration.instantiate import build_vae
from vae_exp.configuration.parsing import resolve_to_dict
from vae_exp.configuration.stored_config import with_overrides
from vae_exp.engine.shutdown import GracefulShutdown
from vae_exp.engine.trainer import Trainer
from vae_exp.errors import Interrupted, RunLockedError, UserError
from vae_exp.model.vae import VAE
from vae_exp.runs.stack import EndedRun, StackMember, train_together
from vae_exp.runs.training_setup import SharedImages
from vae_exp.runs.warm_start import freeze
from vae_exp.storage.run_directory import RunDirectory
from vae_exp.sweep.pool.worker import JobTask
from vae_exp.sweep.run_job import paused_job, run_pickled


def run_stack(jobs: Sequence[JobTask], largest: Mapping[str, Any]) -> list[BaseException | None]:
    """Run the jobs of a stack.

    Args:
        jobs: All of the stack, those that need no process too.
        largest: The `model` values that no job exceeds.

    Returns:
        What ended each job that needed a process; None if nothing went wrong.

    Raises:
        SystemExit: on Ctrl-C or SIGTERM, once every job has written its checkpoint and its result.
    """
    shared = SharedImages()
    configs: list[DictConfig] = []
    size = sum(job.payload is not None for job in jobs)
    with ExitStack() as files, GracefulShutdown() as shutdown:
        runs: list[StackMember | EndedRun] = []
        for job in jobs:
            if job.payload is None:
                runs.append(EndedRun(job.optimizer, job.epochs))
                continue
            output = job.output.open("a", buffering=1, encoding="utf-8", errors="replace")
            member = StackMember(job.optimizer, files.enter_context(output), shutdown)
            with member.turn():
                _set_up(job.payload, member, shared, size, shutdown, configs)
            runs.append(member)
        train_together(runs, lambda trainer: _template(configs[0], largest, trainer), shutdown)
        if shutdown.signal_number is not None:
            sys.exit(Interrupted(shutdown.signal_number).exit_code)
    return [run.error for run in runs if isinstance(run, StackMember)]


def _set_up(
    payload: bytes,
    member: StackMember,
    shared: SharedImages,
    size: int,
    shutdown: GracefulShutdown,
    configs: list[DictConfig],
) -> None:
    """Set a job up as Hydra would start it, and add its config to `configs`; an error ends this job alone."""

    def begin(config: DictConfig) -> None:
        hydra = HydraConfig.get()
        overrides: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)
        run_dir, sweep = RunDirectory(Path(hydra.runtime.output_dir)), Path(hydra.sweep.dir).name
        configs.append(config)
        member.begin(paused_job(config, overrides, run_dir, sweep, shutdown, shared), size)
        if isinstance(member.error, RunLockedError):
            print(f"Skipped: {member.error}", file=sys.stderr)
            member.error = None
        elif isinstance(member.error, UserError):
            print(f"Error: {run_dir.path.name}: {member.error}", file=sys.stderr)

    hydra_context, _, composed, state = cloudpickle.loads(payload)
    try:
        run_pickled(hydra_context, begin, composed, state)
    except Exception as error:  # of Hydra's own, such as a bad hydra.job_logging
        member.error = error


def _template(config: DictConfig, largest: Mapping[str, Any], trainer: Trainer) -> VAE:
    """A model of the largest sizes, on the trainer's device."""
    widened = with_overrides(config, {f"model.{key}": value for key, value in largest.items()})
    image_shape = list(trainer.example(1).images.shape[1:])
    plain = resolve_to_dict(widened, image_shape)
    with torch.random.fork_rng(devices=[]):
        template = build_vae(plain["model"], image_shape)
    freeze(template, plain["model"]["freeze"])
    return template.to(trainer.device)
