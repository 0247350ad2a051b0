"""What is to be done about a job whose directory may hold something already."""

from collections.abc import Sequence
from enum import Enum

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vae_exp.errors import UserError
from vae_exp.storage.plain_files import read_yaml
from vae_exp.storage.run_directory import RunDirectory, write_atomically
from vae_exp.sweep.job_id import identifying_text
from vae_exp.sweep.job_records import read_overrides

FINISHED = ("completed", "pruned")
_FAILED = ("failed", "diverged")


class Attempt(Enum):
    """How a job is taken up."""

    SKIP = "skip"
    RESUME = "resume"
    ANEW = "anew"


def next_attempt(directory: RunDirectory, config: DictConfig) -> Attempt:
    """Skip what is finished, go on with what was ended half-way, begin anew what is missing or has failed.

    Args:
        directory: The job's.
        config: The job's. With `sweep.force` everything is run anew that this very sweep has not itself begun,
            which it knows by `sweep.started`: a job that a cluster requeues goes on.

    Raises:
        UserError: if the directory holds a run of another config.
    """
    if not directory.contains_run():
        return Attempt.ANEW
    _require_the_same(directory, config)
    if config.sweep.force and _started(directory) != config.sweep.started:
        return Attempt.ANEW
    status = status_of(directory)
    if status in FINISHED:
        return Attempt.SKIP
    if status in _FAILED:
        return Attempt.ANEW
    half_done = any(directory.checkpoint(name).exists() for name in ("last", "best"))
    return Attempt.RESUME if half_done else Attempt.ANEW


def note_words(directory: RunDirectory, overrides: Sequence[str]) -> None:
    """Keep in which words a job was asked for last; they may not be those it was begun with."""
    if read_overrides(directory.overrides) != list(overrides):
        text = yaml.safe_dump(list(overrides))
        write_atomically(directory.overrides, lambda file: file.write(text.encode()))


def status_of(directory: RunDirectory) -> str | None:
    """The status in `result.json`; None where there is none that can be read."""
    try:
        result = directory.read_result()
    except UserError:
        return None
    return None if result is None else str(result.get("status"))


def fruitless_wandb_run(directory: RunDirectory) -> str | None:
    """The id of the W&B run of an attempt that was interrupted before its first epoch; None if there is none."""
    try:
        result = directory.read_result() or {}
        has_epochs = directory.metrics.exists() and directory.metrics.stat().st_size > 0
    except (UserError, OSError):
        return None
    if result.get("status") != "interrupted" or has_epochs:
        return None
    wandb = result.get("wandb")
    found = wandb.get("run_id") if isinstance(wandb, dict) else None
    return found if isinstance(found, str) else None


def _require_the_same(directory: RunDirectory, config: DictConfig) -> None:
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


def _started(directory: RunDirectory) -> str | None:
    """When the sweep that began the run of a directory was started."""
    try:
        return str(read_yaml(directory.config)["sweep"]["started"])
    except (OSError, UserError, KeyError, TypeError):
        return None
