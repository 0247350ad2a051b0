"""Going on with a run from its directory: what its config and its checkpoint say, and what may be changed."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from vae_exp.configuration.allowlist import Caller, is_literal, require_safe
from vae_exp.configuration.overrides import override_key, shell_word
from vae_exp.configuration.parsing import resolve_to_dict
from vae_exp.configuration.resolvers import (
    OVERRIDABLE_ON_RESUME,
    config_hash,
    fixed_config_hash,
    stored_config_hash,
)
from vae_exp.configuration.stored_config import load_stored_config, with_overrides
from vae_exp.data.fingerprint import differences
from vae_exp.engine.checkpoint import load_checkpoint
from vae_exp.engine.checkpoint_manager import repair_best
from vae_exp.errors import UserError, quantity
from vae_exp.storage.atomic_io import write_atomically
from vae_exp.storage.run_directory import RunDirectory, resumed_checkpoint

_log = logging.getLogger(__name__)
_COMMAND_KEYS = ("resume", "resume_on_other_pixels", "trusted_packages", "hydra")
_COUNTS = ("epoch", "step", "batches", "lines")
_CONFIG_HASHES = {  # the newest first; checkpoints of earlier versions have one of the others
    "fixed_config_hash": fixed_config_hash,
    "stored_config_hash": stored_config_hash,
    "config_hash": config_hash,
}
_REQUIRED_KEYS = ("batches", "rows", "generators", "optimizer", "lines", "best")


@dataclass(frozen=True)
class ResumeState:
    """A run that is about to go on.

    Args:
        config: Its own config, with what the command changes.
        state: What its last checkpoint holds, on the CPU; None if it was ended before there was one.
        checkpoint: Where that was read.
        may_download: Whether missing data may be downloaded.
        on_other_pixels: Whether the pixels of the data may differ from those that the run was trained on.
    """

    config: DictConfig
    state: dict[str, Any] | None
    checkpoint: Path
    may_download: bool
    on_other_pixels: bool

    @property
    def lines(self) -> int:
        """How many lines of `metrics.jsonl` the checkpoint knows of."""
        return 0 if self.state is None else int(self.state["lines"])

    @property
    def last_row(self) -> dict[str, float] | None:
        """What the last of these lines holds; None where there is none."""
        if not self.lines or self.state is None:
            return None
        step = self.state["step"] - self.state["batches"]
        return {"step": step, "epoch": self.state["epoch"], **self.state["metrics"]}


def load_resume_state(directory: RunDirectory, requested: DictConfig, overrides: Sequence[str]) -> ResumeState:
    """Read what is needed to go on with a run.

    Args:
        directory: The run's.
        requested: The config that the command line composes.
        overrides: The overrides of the command line; only keys of `OVERRIDABLE_ON_RESUME` may be among them.

    Raises:
        UserError: if there is no run, if something else would be changed, if the config names code that is not
            trusted, or if the checkpoint is damaged or of another version; says which one is whole.
    """
    stored = load_stored_config(directory, "resume")
    values = {
        key: OmegaConf.select(requested, key) for key in map(override_key, overrides) if key not in _COMMAND_KEYS
    }
    if "tracker" in values:  # the group says online, offline or none; the project and the rest stay
        values["tracker.mode"] = values.pop("tracker").mode
    for key, value in values.items():
        if not any(key == name or key.startswith(f"{name}.") for name in OVERRIDABLE_ON_RESUME):
            change = f"the group {key}" if isinstance(value, DictConfig) else f"{key}={value}"
            raise UserError(
                f"{change} cannot be changed on resume: resume={directory.path} uses its stored config; "
                f"only {', '.join(OVERRIDABLE_ON_RESUME)} may differ. Start a new run for anything else."
            )
    config = with_overrides(stored, values)
    caller = Caller(directory.path, list(requested.trusted_packages), values)
    checkpoint = _chosen_checkpoint(resumed_checkpoint(str(requested.resume)), directory)
    plain = resolve_to_dict(config)
    if checkpoint.exists():  # it has the weights, and no others are opened
        plain.pop("initialize_from", None)
    require_safe(plain, caller)
    state = _read_state(checkpoint, directory)
    if state is not None:
        warn_of_another_config(stored, state, directory)
    if state is not None and config.trainer.epochs < state["epoch"]:
        raise UserError(
            f"trainer.epochs={config.trainer.epochs} is less than the {quantity(state['epoch'], 'epoch')} that "
            f"resume={directory.path} has been trained; raise it."
        )
    return ResumeState(config, state, checkpoint, caller.may_download, bool(requested.resume_on_other_pixels))


def warn_of_another_config(stored: DictConfig, state: Mapping[str, Any], directory: RunDirectory) -> None:
    """Log that a stored config is not the one that a checkpoint was written with; weights alone do not show it."""
    name = next((name for name in _CONFIG_HASHES if isinstance(state.get(name), str)), None)
    if name and state[name] != _CONFIG_HASHES[name](stored):
        _log.warning(
            "%s differs from the config that the checkpoint was written with: it was edited or damaged since.",
            directory.config,
        )


def check_same_data(
    resume_state: ResumeState, fingerprints: Mapping[str, Mapping[str, Any]], directory: RunDirectory
) -> None:
    """Refuse to continue on other images; the checkpoints of earlier versions do not say which they were.

    Pixels alone may be allowed to differ: another version of a decoder changes some by a grey level.

    Raises:
        UserError: names what differs.
    """
    stored = (resume_state.state or {}).get("data", {})
    changes = {split: differences(stored.get(split, {}), current) for split, current in fingerprints.items()}
    changes = {split: texts for split, texts in changes.items() if texts}
    if not changes:
        return
    summary = "; ".join(f"{split} has {', '.join(texts)}" for split, texts in changes.items())
    only_pixels = all(texts == ["other pixels"] for texts in changes.values())
    if only_pixels and resume_state.on_other_pixels:
        _log.warning("%s continues on other data than it was trained on: %s.", directory.path, summary)
        return
    way_out = (
        " If the files are the same, decoded by another version of Pillow or libjpeg, say "
        "resume_on_other_pixels=true."
        if only_pixels
        else ""
    )
    raise UserError(
        f"{directory.path} was trained on other data: {summary}. Restore the data, or name their place with "
        f"data.path or data.root; a new run starts from these weights with initialize_from={directory.path}."
        f"{way_out}"
    )


def load_job_resume_state(config: DictConfig, directory: RunDirectory, may_download: bool) -> ResumeState | None:
    """What an interrupted job of a sweep continues from; None without an undamaged checkpoint.

    Args:
        config: The job's, that of `with_own_tracker`.
        directory: The job's.
        may_download: Whether missing data may be downloaded.
    """
    for name in ("last", "best"):
        checkpoint = directory.checkpoint(name)
        try:
            state = _read_state(checkpoint, directory) if checkpoint.exists() else None
        except UserError as error:
            _log.warning("%s", error)
            continue
        if state is not None:
            return ResumeState(config, state, checkpoint, may_download, bool(config.resume_on_other_pixels))
    return None


def with_own_tracker(config: DictConfig, directory: RunDirectory) -> DictConfig:
    """The config of an interrupted job, with the tracker's stored values where the environment would decide.

    Raises:
        UserError: if the stored config is more than plain values.
    """
    tracker = load_stored_config(directory).get("tracker") if directory.config.exists() else None
    stored: Any = OmegaConf.to_container(tracker, resolve=False) if isinstance(tracker, DictConfig) else {}
    literal = {key: value for key, value in stored.items() if key in config.tracker and is_literal(value)}
    values: Any = OmegaConf.to_container(OmegaConf.create(literal), resolve=True)
    is_open = partial(OmegaConf.is_interpolation, config.tracker)
    return with_overrides(config, {f"tracker.{key}": value for key, value in values.items() if is_open(key)})


def repair_checkpoints(directory: RunDirectory, state: dict[str, Any], checkpoint: Path) -> None:
    """Repair what a kill has left between two writes, and make `last.pt` the state that the run continues from.

    Args:
        directory: The run's.
        state: The state that the run continues from.
        checkpoint: Where that was read.
    """
    last = directory.checkpoint("last")
    if checkpoint != last:
        content = checkpoint.read_bytes()
        write_atomically(last, lambda file: file.write(content))
    try:
        best_epoch = load_checkpoint(directory.checkpoint("best"), torch.device("cpu"))["epoch"]
    except (UserError, KeyError):
        best_epoch = None
    repair_best(directory, state, best_epoch)


def _chosen_checkpoint(named: Path, directory: RunDirectory) -> Path:
    """The checkpoint that was named, or the best one where there is no last."""
    best = directory.checkpoint("best")
    if named != directory.checkpoint("last") or named.exists() or not best.exists():
        return named
    _log.warning("%s is missing; the run continues from %s.", named, best)
    return best


def _read_state(checkpoint: Path, directory: RunDirectory) -> dict[str, Any] | None:
    if checkpoint == directory.checkpoint("last") and not checkpoint.exists():
        return None
    try:
        state = load_checkpoint(checkpoint, torch.device("cpu"))
    except UserError as error:
        raise UserError(f"{error}{_suggest_other_checkpoint(checkpoint, directory)}") from error
    if any(name not in state for name in _REQUIRED_KEYS):
        raise UserError(
            f"{checkpoint} has weights alone, which an older version of vae_exp wrote: "
            f"it can be evaluated, not resumed."
        )
    for name in _COUNTS:
        if not isinstance(state.get(name), int) or state[name] < 0:
            raise UserError(f"{checkpoint} has {name}={state.get(name)}; expected a number of {name} so far.")
    return state


def _suggest_other_checkpoint(damaged: Path, directory: RunDirectory) -> str:
    """What can still be done where a checkpoint cannot be read."""
    for name in ("last", "best"):
        other = directory.checkpoint(name)
        if other == damaged:
            continue
        try:
            epoch = load_checkpoint(other, torch.device("cpu"))["epoch"]
        except (UserError, KeyError):
            continue
        return f" {other} is whole, of epoch {epoch}: go on from it with {shell_word('resume', other)}"
    return " There is no other checkpoint; start the run again."
