"""Offline W&B runs: their segments, and how to find them."""

import re
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from vae_exp.errors import UserError
from vae_exp.storage.atomic_io import read_yaml
from vae_exp.storage.run_directory import RunDirectory
from vae_exp.tracking.wandb_log import read_records

SEGMENT = re.compile(r"(?P<offline>offline-)?run-(?P<started>\d{8}_\d{6})-(?P<run_id>.+)")
_FRESH_SECONDS = 60.0  # W&B records the state of the machine more often than that while a run lasts


@dataclass(frozen=True, order=True)
class Segment:
    """What one attempt at a run recorded.

    Args:
        started: Start time, as W&B writes it in the name of the directory.
        path: The directory `offline-run-…`, or `run-…` where it was recorded online.
        run_id: The id that all segments of the run share.
    """

    started: str
    path: Path
    run_id: str

    @property
    def is_offline(self) -> bool:
        """Whether it was recorded offline."""
        return self.path.name.startswith("offline-")

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

    def has_ended(self) -> bool:
        """Whether its last record is the one that W&B writes at the end of a run; imports W&B."""
        try:
            last = deque(read_records(self.file), maxlen=1)
        except Exception:  # whatever protobuf raises for a damaged file
            return False
        return bool(last) and last[0].WhichOneof("record_type") == "exit"


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
    segments: list[Segment]
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
        """Whether a process still writes it: by its run directory, the age of its files and their last record."""
        if self.directory is not None:
            if self.directory.is_locked():
                return True
            if self.directory.result.exists():
                return False
        is_fresh = time.time() - max(x.file.stat().st_mtime for x in self.segments) < _FRESH_SECONDS
        return is_fresh and not self.segments[-1].has_ended()


def find_offline_runs(paths: Iterable[Path]) -> list[OfflineRun]:
    """Return the runs of W&B roots, sweeps, run directories or directories `offline-run-…`, the oldest first.

    Raises:
        UserError: if there is none in one of the paths.
    """
    runs: dict[str, OfflineRun] = {}
    read = cache(_read_folder)

    def add(folder: Path, run_id: str | None) -> bool:
        run = read(folder).get(run_id or "")
        if run is not None:
            runs.setdefault(run.run_id, run).merge(run)
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
            for run in _tracked_runs(resolved):
                recorded = [add(folder, run.run_id) for folder in run.folders]
                if run.run_id and any(recorded):
                    runs[run.run_id].directory = run.directory
                    added.append(True)
                elif run.mode == "offline":
                    segment = (
                        f"there is no offline-run-*-{run.run_id}" if run.run_id else "its W&B id is not recorded"
                    )
                    folders = ", ".join(map(str, run.folders))
                    print(f"skipped {run.directory.path.name}: {segment} in {folders}", file=sys.stderr)
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
        run_id: The W&B id; None if it is not recorded.
        folders: Where its segments may be: as recorded, or as configured, seen from its start and from here.
        mode: `tracker.mode` of its config, that of its last attempt; None if that cannot be read.
    """

    directory: RunDirectory
    run_id: str | None
    folders: list[Path]
    mode: Any

    @classmethod
    def read(cls, directory: RunDirectory) -> "TrackedRun":
        """Read the result, or what was written at the start of a run that has none.

        Raises:
            UserError: if there is a result that cannot be read.
        """
        description = (directory.read_result() or {}).get("wandb")
        if not _get(description, "run_id"):
            description = directory.read_wandb()
        run_id, recorded = _get(description, "run_id"), recorded_folder(description)
        config = _read_yaml_if_possible(directory.config)
        root = _get(config, "tracker", "root")
        folders = [recorded] if recorded else []
        if isinstance(root, str) and "${" not in root:
            started_from = _get(_read_yaml_if_possible(directory.hydra_config), "hydra", "runtime", "cwd")
            anchors = [started_from, "."] if isinstance(started_from, str) else ["."]
            folders += [Path(anchor) / Path(root).expanduser() / "wandb" for anchor in anchors]
        return cls(
            directory,
            run_id if isinstance(run_id, str) else None,
            list(dict.fromkeys(folder.resolve() for folder in folders)),
            _get(config, "tracker", "mode"),
        )


def recorded_folder(description: Any) -> Path | None:
    """The folder `wandb` that `wandb.json`, or `wandb` in `result.json`, has recorded; None without a record."""
    directory = _get(description, "directory")
    return Path(directory).parent if isinstance(directory, str) else None


def _tracked_runs(path: Path) -> Iterator[TrackedRun]:
    """Yield what the directory itself, if it is one of a run, and those directly below it record."""
    below = (x for x in sorted(path.iterdir()) if x.is_dir() and not x.is_symlink())
    for directory in map(RunDirectory, (path, *below)):
        if directory.config.is_file() or directory.result.is_file():
            try:
                yield TrackedRun.read(directory)
            except UserError as error:
                print(f"skipped {directory.path.name}: {error}", file=sys.stderr)


def segments_in(folder: Path) -> Iterator[Segment]:
    """Yield the segments in a folder `wandb`, the first by name first; links are skipped."""
    for entry in [] if folder.is_symlink() or not folder.is_dir() else sorted(folder.iterdir()):
        match = SEGMENT.fullmatch(entry.name)
        if match and not entry.is_symlink() and entry.is_dir():
            yield Segment(match["started"], entry, match["run_id"])


def _read_folder(path: Path) -> dict[str, OfflineRun]:
    """Return the runs recorded offline in a folder `wandb`, by id."""
    runs: dict[str, OfflineRun] = {}
    online: dict[str, str] = {}
    for segment in segments_in(path):
        if not segment.is_offline:
            online.setdefault(segment.run_id, segment.started)
        elif segment.file.is_file() and not segment.file.is_symlink() and segment.file.stat().st_size:
            runs.setdefault(segment.run_id, OfflineRun(segment.run_id, [])).segments.append(segment)
    for run in runs.values():
        run.online_since = online.get(run.run_id, "")
    return runs


def _read_yaml_if_possible(path: Path) -> Any:
    try:
        return read_yaml(path)
    except (OSError, UserError):
        return None


def _get(tree: Any, *keys: str) -> Any:
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree
