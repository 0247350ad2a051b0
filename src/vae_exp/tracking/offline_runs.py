"""What W&B has recorded offline: runs, and the segments that their attempts have left."""

import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vae_exp.storage.run_directory import RunDirectory

SEGMENT = re.compile(r"(?P<offline>offline-)?run-(?P<started>\d{8}_\d{6})-(?P<run_id>.+)")
_FRESH_SECONDS = 60.0  # W&B writes down the state of the machine more often than that while a run lasts


@dataclass(frozen=True, order=True)
class Segment:
    """What one attempt at a run has recorded offline.

    Args:
        started: When, as W&B writes it in the name of the directory.
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
        """W&B's own sign that the segment has been uploaded."""
        return self.path / f"{self.file.name}.synced"

    def stamp(self) -> dict[str, int]:
        """Changes when the segment grows."""
        found = self.file.stat()
        return {"size": found.st_size, "mtime_ns": found.st_mtime_ns}


@dataclass
class OfflineRun:
    """A run with all its segments, in the order of their start.

    Args:
        run_id: The id that W&B knows the run by.
        segments: At least one.
        online_since: When its first segment that was recorded online was begun; empty if none was.
        directory: Its run directory, where that is known.
    """

    run_id: str
    segments: list[Segment]
    online_since: str = ""
    directory: RunDirectory | None = None

    @property
    def name(self) -> str:
        """How messages call it."""
        return self.run_id if self.directory is None else f"{self.run_id} ({self.directory.path.name})"

    def merge(self, other: "OfflineRun") -> None:
        """Take in the segments that lie in another folder, but for copies of those known already."""
        known = {each.path.name for each in self.segments}
        self.segments = sorted([*self.segments, *(each for each in other.segments if each.path.name not in known)])
        self.online_since = min(filter(None, (self.online_since, other.online_since)), default="")

    def is_running(self) -> bool:
        """Whether somebody is still writing it, as far as can be told."""
        if self.directory is not None:
            if self.directory.is_locked():
                return True
            if self.directory.result.exists():
                return False
        return time.time() - max(each.file.stat().st_mtime for each in self.segments) < _FRESH_SECONDS


def read_folder(path: Path) -> dict[str, OfflineRun]:
    """The runs in a folder `wandb` with something recorded offline, by their ids; links are left alone."""
    found: dict[str, OfflineRun] = {}
    online: dict[str, str] = {}
    for name, matched in _recorded_in(path):
        started, run_id = matched["started"], matched["run_id"]
        segment = Segment(started, path / name, run_id)
        if not matched["offline"]:
            online[run_id] = min(online.get(run_id, started), started)
        elif _is_plain_file(segment.file):
            found.setdefault(run_id, OfflineRun(run_id, [])).segments.append(segment)
    for run in found.values():
        run.segments.sort()
        run.online_since = online.get(run.run_id, "")
    return found


def _recorded_in(path: Path) -> Iterator[tuple[str, re.Match[str]]]:
    if path.is_symlink() or not path.is_dir():
        return
    with os.scandir(path) as entries:
        for entry in entries:
            matched = SEGMENT.fullmatch(entry.name)
            if matched and entry.is_dir(follow_symlinks=False):
                yield entry.name, matched


def _is_plain_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and path.stat().st_size > 0


def folders_of(runs: Iterable[OfflineRun]) -> list[Path]:
    """The folders in which segments of these runs lie."""
    return sorted({each.path.parent for run in runs for each in run.segments})
