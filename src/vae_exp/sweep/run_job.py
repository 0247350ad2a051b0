"""One job of a sweep: skipped, resumed or restarted, in this process or in a fresh one."""

import logging
from collections.abc import Generator, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from hydra.core.utils import run_job as run_hydra_job
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vae_exp.configuration.naming import identifying_values
from vae_exp.configuration.renames import with_current_names
from vae_exp.configuration.resolvers import identifying_text
from vae_exp.errors import UserError
from vae_exp.storage.atomic_io import read_yaml, write_atomically
from vae_exp.storage.run_directory import RunDirectory, lock_run_directory
from vae_exp.sweep.job_records import read_overrides
from vae_exp.sweep.manifest import job_key, remove_job, swept_values

if TYPE_CHECKING:
    from vae_exp.engine.protocols import Pruner
    from vae_exp.engine.shutdown import GracefulShutdown
    from vae_exp.runs.training_setup import SharedImages, TrainingSetup

_log = logging.getLogger(__name__)
FINISHED = ("completed", "pruned")
_FAILED = ("failed", "diverged")


class JobAction(Enum):
    """What to do with a job."""

    SKIP = "skip"
    RESUME = "resume"
    RESTART = "restart"


def decide_action(directory: RunDirectory, config: DictConfig) -> JobAction:
    """Skip a finished job, resume an interrupted one, restart one that failed or is missing.

    Args:
        directory: The job's.
        config: The job's. With `sweep.rerun` every job is restarted that this sweep has not itself started,
            which `sweep.started_at` shows: a job that a cluster requeues is resumed.

    Raises:
        UserError: if the directory holds a run of another config.
    """
    if not directory.contains_run():
        return JobAction.RESTART
    _check_same_config(directory, config)
    if config.sweep.rerun and _start_time(directory) != config.sweep.started_at:
        return JobAction.RESTART
    status = status_of(directory)
    if status in FINISHED:
        return JobAction.SKIP
    if status in _FAILED:
        return JobAction.RESTART
    half_done = any(directory.checkpoint(name).exists() for name in ("last", "best"))
    return JobAction.RESUME if half_done else JobAction.RESTART


def save_overrides(directory: RunDirectory, overrides: Sequence[str]) -> None:
    """Store the overrides that a job was last started with; they may differ from the first ones."""
    _remove_earlier_overrides(directory, overrides)
    if read_overrides(directory.overrides) != list(overrides):
        text = yaml.safe_dump(list(overrides))
        write_atomically(directory.overrides, lambda file: file.write(text.encode()))


def _remove_earlier_overrides(directory: RunDirectory, overrides: Sequence[str]) -> None:
    """Remove from the sweep's manifest what a job was started with, if it is written otherwise now."""
    earlier = read_overrides(directory.overrides)
    if earlier and job_key(earlier) != job_key(overrides):
        remove_job(directory.path.parent, earlier)


def status_of(directory: RunDirectory) -> str | None:
    """The status in `result.json`; None where there is none that can be read."""
    try:
        result = directory.read_result()
    except UserError:
        return None
    return None if result is None else str(result.get("status"))


def reusable_wandb_run_id(directory: RunDirectory) -> str | None:
    """The id of the W&B run of an attempt that was interrupted before its first epoch; None if there is none."""
    try:
        result = directory.read_result() or {}
        has_epochs = directory.metrics.exists() and directory.metrics.stat().st_size > 0
    except (UserError, OSError):
        return None
    if result.get("status") != "interrupted" or has_epochs:
        return None
    wandb = result.get("wandb")
    run_id = wandb.get("run_id") if isinstance(wandb, dict) else None
    return run_id if isinstance(run_id, str) else None


def _check_same_config(directory: RunDirectory, config: DictConfig) -> None:
    """Compare the configs themselves; a directory without one holds nothing that counts."""
    if not directory.config.exists():
        return
    try:
        read_yaml(directory.config)  # refuses what could wait or grow
        stored = OmegaConf.load(directory.config)
        same = isinstance(stored, DictConfig) and identifying_text(stored) == identifying_text(config)
    except (OSError, UserError, yaml.YAMLError, OmegaConfBaseException):
        same = False
    if not same:
        raise UserError(
            f"{directory.path} holds a run of another config; let hydra.sweep.subdir differ from job to job."
        )


def _start_time(directory: RunDirectory) -> str | None:
    """When the sweep that started the run of a directory was started."""
    try:
        return str(with_current_names(read_yaml(directory.config))["sweep"]["started_at"])
    except (OSError, UserError, KeyError, TypeError):
        return None


def paused_job(
    config: DictConfig,
    overrides: Sequence[str],
    run_dir: RunDirectory,
    sweep: str,
    shutdown: "GracefulShutdown",
    shared_images: "SharedImages | None" = None,
) -> "Generator[TrainingSetup, None, dict[str, Any] | None]":
    """Do what is left of a job; it is paused as `paused_training` is.

    Args:
        config: The composed config, without Hydra's section.
        overrides: The overrides of the job.
        run_dir: The job's directory, whose name contains the hash of its config.
        sweep: The name of the sweep.
        shutdown: Notes Ctrl-C and SIGTERM.
        shared_images: Those of the jobs of this process; None for a job that is alone in it.

    Returns:
        The contents of `result.json`; None if the job was finished before.

    Raises:
        RunLockedError: if another process runs the job.
        UserError: if it cannot start; `result.json` has the reason.
        DivergedError: if the loss is no longer finite.
        Interrupted: on Ctrl-C or SIGTERM, after checkpoint, tracker and result have been written.
    """
    from vae_exp.runs.resume import load_job_resume_state, with_own_tracker
    from vae_exp.runs.training import paused_training
    from vae_exp.runs.training_setup import SweepJob

    with lock_run_directory(run_dir):
        action = decide_action(run_dir, config)
        if action is JobAction.SKIP:
            _log.info("%s is finished already; skipped.", run_dir.path.name)
            save_overrides(run_dir, overrides)
            return None
        if action is JobAction.RESUME:
            config = with_own_tracker(config, run_dir)
        may_download = not config.sweep.checked
        if config.sweep.checked:
            _require_safe_config(config, run_dir)
        resume_state = wandb_run_id = None
        if action is JobAction.RESUME:
            resume_state = load_job_resume_state(config, run_dir, may_download)
            if resume_state is None:
                _log.warning("%s has no undamaged checkpoint; it is restarted.", run_dir.path.name)
            else:
                save_overrides(run_dir, overrides)
        if resume_state is None and run_dir.contains_run():
            wandb_run_id = reusable_wandb_run_id(run_dir)
            _remove_earlier_overrides(run_dir, overrides)
            run_dir.archive_attempt()
        values, swept = identifying_values(overrides), swept_values(run_dir.path.parent, overrides)
        job = SweepJob(sweep, values, swept, _make_pruner(config), wandb_run_id, may_download, shared_images)
        return (yield from paused_training(config, run_dir, shutdown, resume_state=resume_state, job=job))


def _require_safe_config(config: DictConfig, run_dir: RunDirectory) -> None:
    """Refuse a config that names or opens what the user does not trust."""
    from vae_exp.configuration.allowlist import Caller, require_safe
    from vae_exp.configuration.parsing import resolve_to_dict

    caller = Caller(run_dir.path, list(config.trusted_packages), remedy="say trusted_packages=[command]")
    require_safe(resolve_to_dict(config), caller)


def _make_pruner(config: DictConfig) -> "Pruner | None":
    trial = config.sweep.trial
    if trial.storage is None or not trial.prune:
        return None
    from vae_exp.sweep.search.pruning import TrialReporter

    return TrialReporter(Path(trial.storage), trial.number)


def run_pickled(hydra_context: Any, task_function: Any, config: DictConfig, state: Any) -> JobReturn:
    """Run a job as Hydra's basic launcher would.

    Args:
        hydra_context: Loads configs.
        task_function: What a job does with its config.
        config: The job's, composed.
        state: Of Hydra's singletons, where the sweep was started.
    """
    Singleton.set_state(state)
    return run_hydra_job(
        hydra_context=hydra_context,
        task_function=task_function,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
