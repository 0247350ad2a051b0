"""Offline W&B runs: their segments, and how to find them."""

import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from vae_exp.errors import UserError
from vae_exp.storage.atomic_io import read_json, read_yaml
from vae_exp.storage.run_directory import RunDirectory

SEGMENT = re.compile(r"(?P<offline>offline-)?run-(?P<started>\d{8}_\d{6})-(?P<run_id>.+)")
_FRESH_SECONDS = 60.0  # W&B records the state of the machine more often than that while a run lasts


@dataclass(frozen=True, order=True)
class OfflineSegment:
    """What one attempt at a run recorded offline.

    Args:
        started: Start time, as W&B writes it in the name of the directory.
        path: The directory `offline-run-…`.
        run_id: The id that all segments of the run share.
    """

    started: str
    path: Path
    run_id: str

    @property
    def file(self) -> Path:
        """The records."""
        return self.path / f"run-{self.run_id}.wandb"

    @property
    def marker(self) -> Path:
        """The empty file by which W&B marks an uploaded segment."""
        return self.path / f"{self.file.name}.synced"

    def fingerprint(self) -> dict[str, int]:
        """Return size and time; they change when the segment grows."""
        status = self.file.stat()
        return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


@dataclass
class OfflineRun:
    """A run with all its segments, in the order of their start.

    Args:
        run_id: The W&B id.
        segments: At least one.
        online_since: Start time of its first segment that was recorded online; empty if there is none.
        directory: Its run directory, if known.
    """

    run_id: str
    segments: list[OfflineSegment]
    online_since: str = ""
    directory: RunDirectory | None = None

    @property
    def name(self) -> str:
        """Its name in messages."""
        return self.run_id if self.directory is None else f"{self.run_id} ({self.directory.path.name})"

    def merge(self, other: "OfflineRun") -> None:
        """Add the segments of another folder, without copies of those that are here."""
        names = {segment.path.name for segment in self.segments}
        self.segments = sorted([*self.segments, *(x for x in other.segments if x.path.name not in names)])
        self.online_since = min(filter(None, (self.online_since, other.online_since)), default="")

    def is_running(self) -> bool:
        """Whether a process still writes it: by the lock of its run directory, or by the age of its files."""
        if self.directory is not None:
            if self.directory.is_locked():
                return True
            if self.directory.result.exists():
                return False
        return time.time() - max(x.file.stat().st_mtime for x in self.segments) < _FRESH_SECONDS


def find_offline_runs(paths: Iterable[Path]) -> list[OfflineRun]:
    """Return the runs of W&B roots, sweeps, run directories or directories `offline-run-…`, the oldest first.

    Raises:
        UserError: if there is none in one of the paths.
    """
    runs: dict[str, OfflineRun] = {}
    read = cache(_read_folder)

    def add(folder: Path, run_id: str) -> bool:
        run = read(folder).get(run_id)
        if run is not None:
            runs.setdefault(run_id, run).merge(run)
        return run is not None

    for path in paths:
        if not path.is_dir():
            raise UserError(f"DIR={path} is not a directory.")
        resolved = path.resolve()
        match = SEGMENT.fullmatch(resolved.name)
        if match and match["offline"]:
            added = [add(resolved.parent, match["run_id"])]
        else:
            added = [add(folder, x) for folder in (resolved, resolved / "wandb") for x in read(folder)]
            for directory in _run_directories(resolved):
                run_id = _add_run_directory(directory, add)
                if run_id is not None:
                    runs[run_id].directory = directory
                    added.append(True)
        if not any(added):
            raise UserError(
                f"DIR={resolved} holds no offline W&B run; expected a folder with wandb/offline-run-..., a sweep "
                "or a run directory whose tracker was offline, or a directory offline-run-... itself."
            )
    return sorted(runs.values(), key=lambda run: run.segments[0])


def folders_of(runs: Iterable[OfflineRun]) -> list[Path]:
    """Return the folders that hold segments of these runs."""
    return sorted({segment.path.parent for run in runs for segment in run.segments})


@dataclass(frozen=True)
class TrackedRun:
    """What a run directory records of its W&B run.

    Args:
        directory: The run directory.
        description: `wandb` of its result, or what was written at its start.
    """

    directory: RunDirectory
    description: Mapping[str, Any]

    @classmethod
    def read(cls, directory: RunDirectory) -> "TrackedRun":
        """Read the result, or what was written at the start of a run that has none.

        Raises:
            UserError: if there is a result that cannot be read.
        """
        description = (directory.read_result() or {}).get("wandb")
        if not isinstance(description, dict) or not description.get("run_id"):
            try:
                description = read_json(directory.wandb)
            except (OSError, UserError):
                description = None
        return cls(directory, description if isinstance(description, dict) else {})

    @property
    def run_id(self) -> str | None:
        """The W&B id; None if it is not recorded."""
        run_id = self.description.get("run_id")
        return run_id if isinstance(run_id, str) else None

    def is_offline(self) -> bool:
        """Whether its last attempt was tracked offline."""
        mode = self.description.get("mode") or _read_yaml(self.directory.config, "tracker", "mode")
        return bool(mode == "offline")

    def folders(self) -> list[Path]:
        """Return where its segments may be: as recorded, or as configured, seen from its start and from here."""
        recorded = self.description.get("directory")
        folders = [Path(recorded).parent] if isinstance(recorded, str) else []
        root = _read_yaml(self.directory.config, "tracker", "root")
        if isinstance(root, str) and "${" not in root:
            started_from = _read_yaml(self.directory.hydra_config, "hydra", "runtime", "cwd")
            anchors = [started_from, "."] if isinstance(started_from, str) else ["."]
            folders += [Path(anchor) / Path(root).expanduser() / "wandb" for anchor in anchors]
        return list(dict.fromkeys(folder.resolve() for folder in folders))


def _add_run_directory(directory: RunDirectory, add: Callable[[Path, str], bool]) -> str | None:
    """Add the segments of a run directory; its W&B id if there are any."""
    try:
        tracked = TrackedRun.read(directory)
    except UserError as error:
        print(f"skipped {directory.path.name}: {error}", file=sys.stderr)
        return None
    folders, run_id = tracked.folders(), tracked.run_id
    added = [run_id is not None and add(folder, run_id) for folder in folders]
    if any(added):
        return run_id
    if tracked.is_offline():
        reason = "its W&B id is not recorded" if run_id is None else f"there is no offline-run-*-{run_id}"
        print(f"skipped {directory.path.name}: {reason} in {', '.join(map(str, folders))}", file=sys.stderr)
    return None


def _run_directories(path: Path) -> list[RunDirectory]:
    """Return the directory itself if it is one of a run, and those directly below it."""
    below = (x for x in sorted(path.iterdir()) if x.is_dir() and not x.is_symlink())
    candidates = [RunDirectory(x) for x in (path, *below)]
    return [x for x in candidates if x.config.is_file() or x.result.is_file()]


def _read_folder(path: Path) -> dict[str, OfflineRun]:
    """Return the runs recorded offline in a folder `wandb`, by id; links are skipped."""
    runs: dict[str, OfflineRun] = {}
    online: dict[str, str] = {}
    for name, match in _recorded_in(path):
        started, run_id = match["started"], match["run_id"]
        segment = OfflineSegment(started, path / name, run_id)
        if not match["offline"]:
            online[run_id] = min(online.get(run_id, started), started)
        elif _is_plain_file(segment.file):
            runs.setdefault(run_id, OfflineRun(run_id, [])).segments.append(segment)
    for run in runs.values():
        run.segments.sort()
        run.online_since = online.get(run.run_id, "")
    return runs


def _recorded_in(path: Path) -> Iterator[tuple[str, re.Match[str]]]:
    if path.is_symlink() or not path.is_dir():
        return
    with os.scandir(path) as entries:
        for entry in entries:
            match = SEGMENT.fullmatch(entry.name)
            if match and entry.is_dir(follow_symlinks=False):
                yield entry.name, match


def _is_plain_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and path.stat().st_size > 0


def _read_yaml(path: Path, *keys: str) -> Any:
    try:
        value = read_yaml(path)
    except (OSError, UserError):
        return None
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value
