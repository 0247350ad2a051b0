"""The manifest of a sweep, `sweep.json`: its commands, and the jobs that follow from them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from vae_exp.configuration.overrides import override_key, overrides_by_key
from vae_exp.configuration.renames import rename_override
from vae_exp.configuration.resolvers import EXCLUDED_KEYS, NOT_PART_OF_IDENTITY
from vae_exp.errors import UserError
from vae_exp.storage.atomic_io import read_json, write_json

_log = logging.getLogger(__name__)
FILE = "sweep.json"
STUDY_FILE = "optuna.journal"  # beside it, where jobs are searched for
_LOCK_SECONDS = 30
_UNREADABLE = (OSError, UserError, KeyError, TypeError)


@dataclass
class SweepManifest:
    """The commands and jobs of a sweep.

    Args:
        commands: Every command that was given, in order: `words`, its arguments, and `folder`, where it was given.
        jobs: The overrides of every job that follows from them.
    """

    commands: list[dict[str, Any]] = field(default_factory=list)
    jobs: list[list[str]] = field(default_factory=list)


def read_manifest(sweep: Path) -> SweepManifest:
    """Read the manifest of a sweep; an empty one if it is missing or cannot be read."""
    try:
        return _parsed(sweep / FILE)
    except _UNREADABLE:
        return SweepManifest()


def _parsed(path: Path) -> SweepManifest:
    content = read_json(path)
    jobs = [[rename_override(str(word)) for word in job] for job in content["jobs"]]
    commands = [
        {"words": [rename_override(str(word)) for word in command["words"]], "folder": str(command["folder"])}
        for command in content["commands"]
    ]
    return SweepManifest(commands, jobs)


def add_command(sweep: Path, argv: Sequence[str], folder: Path, jobs: Sequence[Sequence[str]]) -> None:
    """Add a command and its jobs to the manifest of a sweep; those that it has are not added again.

    Args:
        sweep: The sweep's directory.
        argv: The command line, without the program.
        folder: Where the command was given.
        jobs: The overrides of each job.
    """
    sweep.mkdir(parents=True, exist_ok=True)
    with FileLock(sweep / f".{FILE}.lock", timeout=_LOCK_SECONDS):
        manifest = _read_or_set_aside(sweep / FILE)
        command = {"words": list(argv), "folder": str(folder)}
        new_args = portable_args(argv)
        listed = {job_key(job) for job in manifest.jobs}
        manifest.jobs += [list(job) for job in jobs if job_key(job) not in listed]
        if not any(portable_args(x["words"]) == new_args for x in manifest.commands):
            manifest.commands.append(command)
        write_json(sweep / FILE, {"commands": manifest.commands, "jobs": manifest.jobs})


def remove_job(sweep: Path, overrides: Sequence[str]) -> None:
    """Remove from a manifest the overrides that a job had before it was started with others."""
    with FileLock(sweep / f".{FILE}.lock", timeout=_LOCK_SECONDS):
        manifest, key = read_manifest(sweep), job_key(overrides)
        jobs = [job for job in manifest.jobs if job_key(job) != key]
        if len(jobs) < len(manifest.jobs):
            write_json(sweep / FILE, {"commands": manifest.commands, "jobs": jobs})


def portable_args(argv: Sequence[str]) -> list[str]:
    """The arguments of a command that stay valid when its sweep is moved, renamed, trusted or rerun."""
    passing = ("sweep.rerun=", "sweep.name=", "sweep.checked=", "hydra.sweep.dir=", "trusted_packages=")
    return [word for word in argv if not word.lstrip("+").startswith(passing)]


def _read_or_set_aside(path: Path) -> SweepManifest:
    """Rename a manifest that cannot be read, and log it: it may be needed for a retry."""
    try:
        return _parsed(path) if path.exists() else SweepManifest()
    except _UNREADABLE as error:
        aside = path.with_name(f"{path.name}.unreadable")
        path.replace(aside)
        _log.warning("%s could not be read (%s) and is now %s.", path, error, aside.name)
        return SweepManifest()


def job_key(overrides: Sequence[str]) -> tuple[str, ...]:
    """The overrides that identify a job, in any order."""
    return tuple(sorted(identifying_overrides(overrides)))


def identifying_overrides(overrides: Sequence[str]) -> list[str]:
    """The overrides of a job that affect its result."""
    return [override for override in overrides if not is_excluded_key(override_key(override))]


def is_excluded_key(key: str) -> bool:
    """Whether a key does not identify a job."""
    return key.partition(".")[0] in NOT_PART_OF_IDENTITY or key in EXCLUDED_KEYS


def swept_keys(sweep: Path, overrides: Sequence[str]) -> dict[str, str]:
    """The overrides of a job that differ between the jobs of its sweep; all of them without a manifest."""
    own = overrides_by_key(identifying_overrides(overrides))
    others = [overrides_by_key(identifying_overrides(job)) for job in read_manifest(sweep).jobs]
    if len(others) < 2:
        return own
    return {key: value for key, value in own.items() if any(job.get(key) != value for job in others)}


def check_swept_keys(overrides: Sequence[str]) -> None:
    """Refuse several values of a key that does not identify a job: they would be one job, or several sweeps.

    Raises:
        UserError: names the override.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException:  # Hydra itself will say what is wrong
        return
    for override in parsed:
        key = override_key(override.get_key_element())
        if key == "sweep.name" and "${" in str(override.input_line):
            raise UserError(f"{override.input_line} would be another sweep for every job; give it a plain name.")
        if override.is_sweep_override() and is_excluded_key(key):
            raise UserError(f"{override.input_line}: {key} does not tell jobs apart; give it one value.")


def planned_jobs(config: DictConfig, overrides: Sequence[str]) -> list[list[str]] | None:
    """The jobs that Hydra's basic sweeper makes of a sweep; None for another sweeper.

    Args:
        config: Of the sweep.
        overrides: Of the command line.

    Raises:
        UserError: if there would be none, names the keys that have no values.
    """
    sweeper = config.hydra.sweeper
    if not str(sweeper.get("_target_", "")).endswith("BasicSweeper"):
        return None
    raw: Any = OmegaConf.to_container(sweeper.params, resolve=True) if sweeper.get("params") else {}
    swept = [*(f"{key}={value}" for key, value in raw.items()), *overrides]
    try:
        parsed = OverridesParser.create().parse_overrides(swept)
        batches = BasicSweeper.split_arguments(parsed, None)
    except HydraException:  # the sweeper itself will say what is wrong
        return None
    jobs = [list(job) for batch in batches for job in batch]
    if not jobs:
        empty = [x.input_line for x in parsed if x.is_sweep_override() and not [*x.sweep_string_iterator()]]
        raise UserError(f"the sweep has no jobs: {', '.join(map(str, empty))} has no values.")
    return jobs
