"""What has been uploaded, remembered beside the runs."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vae_exp.errors import UserError
from vae_exp.storage.atomic_io import read_json, write_json
from vae_exp.tracking.offline_runs import SEGMENT, OfflineRun, Segment, folders_of

MEMORY_NAME = ".vae_exp_synced.json"


class Memory:
    """Which segments of a folder have been uploaded, and how large they were then.

    Args:
        folder: The folder `wandb`.
        target: Where they go, as far as that was asked for.

    Raises:
        UserError: if the file is there and is not ours to read.
    """

    def __init__(self, folder: Path, target: Mapping[str, str | None]) -> None:
        self._path = folder / MEMORY_NAME
        self._target = dict(target)
        self._entries = self._read()

    def holds(self, segment: Segment) -> bool:
        """Whether a segment has been uploaded as it is now; where we know nothing of it, W&B's marker counts."""
        entry = self._entries.get(segment.path.name)
        if entry is not None:
            return bool(entry == self._entry(segment.stamp()))
        if any(self._target.values()):  # the marker does not say where to
            return False
        try:
            return segment.marker.stat().st_mtime_ns >= segment.stamp()["mtime_ns"]
        except FileNotFoundError:
            return False

    def knows_before(self, run_id: str, started: str) -> bool:
        """Whether a segment of a run that was begun earlier has been uploaded, even if it no longer lies here."""
        names = (SEGMENT.fullmatch(name) for name in self._entries)
        return any(each["started"] < started for each in names if each and each["run_id"] == run_id)

    def add(self, segment: Segment, stamp: Mapping[str, int]) -> None:
        """Note that a segment has been uploaded as it was before; `save` keeps it."""
        self._entries[segment.path.name] = self._entry(stamp)

    def save(self) -> None:
        """Write the file, whole or not at all."""
        write_json(self._path, self._entries)

    def _entry(self, stamp: Mapping[str, int]) -> dict[str, Any]:
        return {**stamp, **self._target}

    def _read(self) -> dict[str, Any]:
        try:
            entries = read_json(self._path)
        except FileNotFoundError:
            return {}
        except (OSError, UserError) as error:
            raise UserError(
                f"{self._path} cannot be read ({error}); remove it to upload everything again."
            ) from error
        if not isinstance(entries, dict):
            raise UserError(f"{self._path} holds {type(entries).__name__}; remove it to upload everything again.")
        return entries


class Memories:
    """The memories of all folders that hold segments of some runs.

    Args:
        runs: The runs.
        target: Where they go, as far as that was asked for.
    """

    def __init__(self, runs: Iterable[OfflineRun], target: Mapping[str, str | None]) -> None:
        self._by_folder = {folder: Memory(folder, target) for folder in folders_of(runs)}

    def holds(self, run: OfflineRun) -> bool:
        """Whether all of a run has been uploaded as it is now."""
        return all(self._by_folder[each.path.parent].holds(each) for each in run.segments)

    def is_continued(self, run: OfflineRun) -> bool:
        """Whether W&B has older segments of a run than lie here: cleaned away since, or sent online."""
        first = run.segments[0].started
        if run.online_since and run.online_since < first:
            return True
        return any(each.knows_before(run.run_id, first) for each in self._by_folder.values())

    def add(self, run: OfflineRun, stamps: Sequence[Mapping[str, int]]) -> None:
        """Remember that a run has been uploaded, as its segments were before."""
        for segment, stamp in zip(run.segments, stamps, strict=True):
            self._by_folder[segment.path.parent].add(segment, stamp)
        for folder in folders_of([run]):
            self._by_folder[folder].save()
