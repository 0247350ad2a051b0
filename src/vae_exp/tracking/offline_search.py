"""Finding offline runs: below a W&B root, of a sweep, of a run directory."""

import pickletools
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vae_exp.errors import UserError
from vae_exp.storage.atomic_io import read_yaml
from vae_exp.storage.run_directory import RunDirectory
from vae_exp.tracking.offline_runs import SEGMENT, OfflineRun, read_folder

_MEMO = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")


class Search:
    """Finds offline runs; each is found once, whichever ways lead to it, and a folder is read once."""

    def __init__(self) -> None:
        self._folders: dict[Path, dict[str, OfflineRun]] = {}
        self._noted: set[tuple[Path, str]] = set()
        self._found: dict[str, OfflineRun] = {}

    @property
    def runs(self) -> list[OfflineRun]:
        """What was found, the oldest first."""
        return sorted(self._found.values(), key=lambda run: run.segments[0])

    def look_into(self, path: Path) -> None:
        """Find the runs of a W&B root, a sweep, a run directory or an offline run's own directory.

        Raises:
            UserError: if there is none.
        """
        if not path.is_dir():
            raise UserError(f"DIR={path} is not a directory.")
        path = path.resolve()
        matched = SEGMENT.fullmatch(path.name)
        if matched and matched["offline"]:
            found = self._note(path.parent, matched["run_id"])
        else:
            below = [self._note_all(path), self._note_all(path / "wandb")]
            found = any(below + [self._note_run_directory(each) for each in _run_directories(path)])
        if not found:
            raise UserError(
                f"DIR={path} holds no offline W&B run; expected a folder with wandb/offline-run-..., a sweep or a "
                "run directory whose tracker was offline, or a directory offline-run-... itself."
            )

    def _runs_in(self, folder: Path) -> dict[str, OfflineRun]:
        if folder not in self._folders:
            self._folders[folder] = read_folder(folder)
        return self._folders[folder]

    def _note_all(self, folder: Path) -> bool:
        noted = [self._note(folder, run_id) for run_id in self._runs_in(folder)]
        return any(noted)

    def _note(self, folder: Path, run_id: str) -> bool:
        run = self._runs_in(folder).get(run_id)
        if run is None:
            return False
        if (folder, run_id) not in self._noted:
            self._noted.add((folder, run_id))
            self._found.setdefault(run_id, run).merge(run)
        return True

    def _note_run_directory(self, directory: RunDirectory) -> bool:
        try:
            tracked = Tracked.read(directory)
        except UserError as error:
            print(f"skipped {directory.path.name}: {error}", file=sys.stderr)
            return False
        folders, run_id = tracked.folders(), tracked.run_id
        noted = [] if run_id is None else [self._note(each, run_id) for each in folders]
        if run_id is not None and any(noted):
            self._found[run_id].directory = directory
            return True
        if tracked.is_offline():
            told = (
                "which W&B run is its own is not known"
                if run_id is None
                else f"there is no offline-run-*-{run_id}"
            )
            places = ", ".join(map(str, folders))
            print(f"skipped {directory.path.name}: {told} in {places}", file=sys.stderr)
        return False


def _run_directories(path: Path) -> list[RunDirectory]:
    """The directory itself if it is one of a run, and those right below it."""
    below = (each for each in sorted(path.iterdir()) if each.is_dir() and not each.is_symlink())
    candidates = [RunDirectory(each) for each in (path, *below)]
    return [each for each in candidates if each.config.is_file() or each.result.is_file()]


@dataclass(frozen=True)
class Tracked:
    """What a run directory says of its W&B run.

    Args:
        directory: The run directory.
        told: What its result says; a run that was killed has none.
        run_id: The id that W&B knows the run by; None where nothing tells.
    """

    directory: RunDirectory
    told: Mapping[str, Any]
    run_id: str | None

    @classmethod
    def read(cls, directory: RunDirectory) -> "Tracked":
        """Read what the result says, or the last checkpoint.

        Raises:
            UserError: if there is a result that cannot be read.
        """
        told = (directory.read_result() or {}).get("wandb")
        told = told if isinstance(told, dict) else {}
        run_id = told.get("run_id") or _id_in_checkpoint(directory.checkpoint("last"))
        return cls(directory, told, run_id if isinstance(run_id, str) else None)

    def is_offline(self) -> bool:
        """Whether the run was tracked offline, the last time."""
        mode = self.told.get("mode") or _read_yaml(self.directory.config, "tracker", "mode")
        return bool(mode == "offline")

    def folders(self) -> list[Path]:
        """Where its segments may lie: as recorded, or as configured, seen from its start and from here."""
        place = self.told.get("directory")
        recorded = [Path(place).parent] if isinstance(place, str) else []
        root = _read_yaml(self.directory.config, "tracker", "root")
        if isinstance(root, str) and "${" not in root:
            started_from = _read_yaml(self.directory.hydra_config, "hydra", "runtime", "cwd")
            anchors = [started_from, "."] if isinstance(started_from, str) else ["."]
            recorded += [Path(each) / Path(root).expanduser() / "wandb" for each in anchors]
        return list(dict.fromkeys(each.resolve() for each in recorded))


def _read_yaml(path: Path, *keys: str) -> Any:
    try:
        value = read_yaml(path)
    except (OSError, UserError):
        return None
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _id_in_checkpoint(path: Path) -> str | None:
    """The W&B id that a checkpoint remembers: read without torch, and without running what it says."""
    if not path.is_file():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(each for each in archive.namelist() if each.endswith("/data.pkl"))
            operations = pickletools.genops(archive.read(name))
            values = [value for operation, value, _ in operations if operation.name not in _MEMO]
        value = values[values.index("wandb_run_id") + 1]
    except (OSError, zipfile.BadZipFile, StopIteration, ValueError, IndexError):
        return None
    return value if isinstance(value, str) else None
