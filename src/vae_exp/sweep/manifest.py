"""The manifest of a sweep, `sweep.json`: its commands, and the jobs that follow from them."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from vae_exp.configuration.naming import (
    file_name,
    identifying_overrides,
    identifying_values,
    is_excluded_key,
    swept_keys,
)
from vae_exp.configuration.overrides import override_key
from vae_exp.configuration.renames import rename_override
from vae_exp.configuration.resolvers import config_hash
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
        searched: The keys of search spaces, whose jobs are not known from the start.
    """

    commands: list[dict[str, Any]] = field(default_factory=list)
    jobs: list[list[str]] = field(default_factory=list)
    searched: list[str] = field(default_factory=list)


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
    searched = [rename_override(f"{key}=").removesuffix("=") for key in content.get("searched", ())]
    return SweepManifest(commands, jobs, searched)


def add_command(
    sweep: Path,
    argv: Sequence[str],
    folder: Path,
    jobs: Sequence[Sequence[str]],
    searched: Sequence[str] = (),
) -> None:
    """Add a command and its jobs to the manifest of a sweep; of a command that it has only the folder changes.

    Args:
        sweep: The sweep's directory.
        argv: The command line, without the program.
        folder: Where the command was given.
        jobs: The overrides of each job.
        searched: The keys of its search space.
    """
    sweep.mkdir(parents=True, exist_ok=True)
    with FileLock(sweep / f".{FILE}.lock", timeout=_LOCK_SECONDS):
        manifest = _read_or_set_aside(sweep / FILE)
        command = {"words": list(argv), "folder": str(folder)}
        new_args = portable_args(argv)
        listed = {job_key(job) for job in manifest.jobs}
        manifest.jobs += [list(job) for job in jobs if job_key(job) not in listed]
        known = [entry for entry in manifest.commands if portable_args(entry["words"]) == new_args]
        for entry in known:
            entry["folder"] = command["folder"]  # the project may have been moved
        if not known:
            manifest.commands.append(command)
        manifest.searched = list(dict.fromkeys([*manifest.searched, *searched]))
        write_json(sweep / FILE, asdict(manifest))


def remove_job(sweep: Path, overrides: Sequence[str]) -> None:
    """Remove from a manifest the overrides that a job had before it was started with others."""
    with FileLock(sweep / f".{FILE}.lock", timeout=_LOCK_SECONDS):
        manifest, key = read_manifest(sweep), job_key(overrides)
        jobs = [job for job in manifest.jobs if job_key(job) != key]
        if len(jobs) < len(manifest.jobs):
            write_json(sweep / FILE, asdict(replace(manifest, jobs=jobs)))


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


def job_name(sweep: Path, overrides: Sequence[str], identity: str) -> str:
    """The name of a job's directory: that of the job in this sweep with the same identity, or a new one.

    Args:
        sweep: The sweep's directory; it need not be there yet.
        overrides: What the job was started with; the same job may have other overrides.
        identity: The hash of its config.
    """
    for path in sorted(sweep.glob(f"*_{identity}")):
        if path.is_dir():
            return path.name
    return f"{file_name(identifying_values(overrides), _swept_keys(sweep))}_{identity}"


def swept_values(sweep: Path, overrides: Sequence[str]) -> dict[str, str]:
    """The values of a job at the keys that are swept."""
    keys = _swept_keys(sweep)
    return {key: value for key, value in identifying_values(overrides).items() if key in keys}


def _swept_keys(sweep: Path) -> Sequence[str]:
    try:
        status = (sweep / FILE).stat()
    except OSError:
        return ()
    return _swept_keys_of(sweep, status.st_mtime_ns, status.st_size)


@lru_cache(1)
def _swept_keys_of(sweep: Path, modified: int, size: int) -> Sequence[str]:
    """The keys that name the jobs of a sweep; each job asks for them, and there may be very many."""
    manifest = read_manifest(sweep)
    keys = swept_keys(map(identifying_values, manifest.jobs), manifest.searched)
    return list(dict.fromkeys([*keys, *manifest.searched]))


def register_job_name() -> None:
    """Make `${vae_exp.job_name:}` known, the name of the directory of a job."""
    OmegaConf.register_new_resolver("vae_exp.job_name", _job_name, replace=True)


def _job_name(*, _root_: DictConfig) -> str:
    overrides: Any = OmegaConf.to_container(_root_.hydra.overrides.task, resolve=False)
    return job_name(Path(str(_root_.hydra.sweep.dir)), overrides, config_hash(_root_))


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
    if not str(config.hydra.sweeper.get("_target_", "")).endswith("BasicSweeper"):
        return None
    try:
        parsed = _parse_swept(config, overrides)
        batches = BasicSweeper.split_arguments(parsed, None)
    except HydraException:  # the sweeper itself will say what is wrong
        return None
    jobs = [list(job) for batch in batches for job in batch]
    if not jobs:
        empty = [x.input_line for x in parsed if x.is_sweep_override() and not [*x.sweep_string_iterator()]]
        raise UserError(f"the sweep has no jobs: {', '.join(map(str, empty))} has no values.")
    return jobs


def searched_keys(config: DictConfig, overrides: Sequence[str]) -> list[str]:
    """The keys for which a sweep has several values; `Args` as of `planned_jobs`."""
    try:
        parsed = _parse_swept(config, overrides)
    except HydraException:
        return []
    latest = {override.get_key_element().lstrip("+"): override for override in parsed}
    return [key for key, override in latest.items() if override.is_sweep_override()]


def _parse_swept(config: DictConfig, overrides: Sequence[str]) -> list[Override]:
    params = config.hydra.sweeper.get("params")
    raw: Any = OmegaConf.to_container(params, resolve=True) if params else {}
    swept = [*(f"{key}={value}" for key, value in raw.items()), *overrides]
    return OverridesParser.create().parse_overrides(swept)
