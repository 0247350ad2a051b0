"""Record of uploaded segments, kept beside the runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vae_exp.errors import UserError
from vae_exp.storage.atomic_io import read_json, write_json
from vae_exp.tracking.offline_runs import SEGMENT, OfflineRun, Segment, folders_of

LEDGER_NAME = ".vae_exp_synced.json"


class SyncLedger:
    """Which segments have been uploaded, and their size then; one file in each folder `wandb`.

    Args:
        folders: The folders.
        target: The project and the entity that were requested, if any.

    Raises:
        UserError: if a file cannot be read.
    """

    def __init__(self, folders: Sequence[Path], target: Mapping[str, str | None]) -> None:
        self._target = dict(target)
        self._entries = {folder: _read(folder / LEDGER_NAME) for folder in folders}

    def contains(self, run: OfflineRun) -> bool:
        """Whether all of a run has been uploaded as it is now."""
        return all(self._contains_segment(segment) for segment in run.segments)

    def has_earlier_segments(self, run: OfflineRun) -> bool:
        """Whether the server has segments older than those here: removed since, or recorded online."""
        first = run.segments[0].started
        if run.online_since and run.online_since < first:
            return True
        matches = (SEGMENT.fullmatch(name) for entries in self._entries.values() for name in entries)
        return any(x["run_id"] == run.run_id and x["started"] < first for x in matches if x)

    def add(self, run: OfflineRun, fingerprints: Mapping[Segment, Mapping[str, int]]) -> None:
        """Record that a run has been uploaded, with the fingerprints taken before.

        Raises:
            OSError: if a file cannot be written.
        """
        for segment in run.segments:
            self._entries[segment.path.parent][segment.path.name] = {**fingerprints[segment], **self._target}
        for folder in folders_of([run]):
            write_json(folder / LEDGER_NAME, self._entries[folder])

    def _contains_segment(self, segment: Segment) -> bool:
        entry = self._entries[segment.path.parent].get(segment.path.name)
        if entry is not None:
            return bool(entry == {**segment.fingerprint(), **self._target})
        if any(self._target.values()):  # W&B's marker names no target
            return False
        try:
            return segment.marker.stat().st_mtime_ns >= segment.fingerprint()["mtime_ns"]
        except FileNotFoundError:
            return False


def _read(path: Path) -> dict[str, Any]:
    try:
        entries = read_json(path)
    except FileNotFoundError:
        return {}
    except (OSError, UserError) as error:
        raise UserError(f"{path} cannot be read ({error}); remove it to upload everything again.") from error
    if not isinstance(entries, dict):
        raise UserError(f"{path} holds {type(entries).__name__}; remove it to upload everything again.")
    return entries
