"""Discovery of `.wandb` files: below folders, and where sweeps and run directories have written theirs."""

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from vae_exp.errors import UserError
from vae_exp.storage.run_directory import RunDirectory
from vae_exp.tracking.offline_runs import TrackedRun, recorded_folder

_MAX_FILES = 20_000
_SKIPPED = {"tests", "node_modules", "__pycache__", "checkpoints", "figures", "media", "site-packages"}
_HYDRA = ".hydra"
_SWEEP = "sweep.json"
_HIDDEN_BUT_SEARCHED = ".wandb"  # W&B writes there instead of into wandb/ where such a folder exists


class DiscoveredFile(NamedTuple):
    """A file, and whether it is below a root; of the others only runs whose directory is are shown."""

    status: os.stat_result
    is_below_root: bool


class RunDiscovery:
    """Finds the files below some roots whenever it is asked to.

    Args:
        roots: Folders, searched at any depth without links, hidden folders, `tests` and installed packages; or
            `.wandb` files.
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        self._roots = [root.resolve() for root in roots]
        self._folders: dict[Path, list[Path]] = {}  # by sweep, and by run directory
        self._read: dict[Path, int] = {}  # when the run directory had changed last
        self._unlisted: set[Path] = set()

    def files(self) -> dict[Path, DiscoveredFile]:
        """Return the regular files, each once whatever names it has."""
        self._unlisted.clear()
        files: dict[Path, DiscoveredFile] = {}
        seen: set[tuple[int, int]] = set()
        for path, is_below_root in self._candidates():
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            except OSError:
                self._unlisted.add(path)
                continue
            identity = status.st_dev, status.st_ino
            if stat.S_ISREG(status.st_mode) and identity not in seen and len(files) < _MAX_FILES:
                seen.add(identity)
                files[path] = DiscoveredFile(status, is_below_root)
        return files

    def is_unreadable(self, path: Path) -> bool:
        """Whether a file may exist in a folder that could not be listed."""
        return any(path.is_relative_to(folder) for folder in self._unlisted)

    def is_below_a_root(self, run_directory: object) -> bool:
        """Whether a run with this directory is below one of the roots."""
        try:
            path = Path(str(run_directory)).resolve()
        except (OSError, ValueError, RuntimeError):
            return False
        return isinstance(run_directory, str) and any(path.is_relative_to(root) for root in self._roots)

    def _candidates(self) -> Iterator[tuple[Path, bool]]:
        for root in self._roots:
            for path in [root] if root.is_file() else self._below(root):
                yield path, True
        for folder in sorted({folder for folders in self._folders.values() for folder in folders}):
            for path in sorted(folder.glob("*run-*/run-*.wandb")):
                if not path.is_symlink():
                    yield path, False

    def _below(self, root: Path) -> Iterator[Path]:
        pending = [str(root)]
        while pending:
            folder = pending.pop()
            try:
                with os.scandir(folder) as listing:
                    entries = sorted(listing, key=lambda entry: entry.name)
            except OSError as error:
                self._note_unlisted(error)
                continue
            folders = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
            if any(entry.name == _HYDRA for entry in folders):
                self._note_run_directory(Path(folder))
            pending += [entry.path for entry in reversed(folders) if _is_searched(entry.name)]
            for entry in entries:
                if entry.name.endswith(".wandb") and not entry.is_dir() and not entry.is_symlink():
                    yield Path(entry.path)

    def _note_unlisted(self, error: OSError) -> None:
        if error.filename is not None and not isinstance(error, FileNotFoundError | NotADirectoryError):
            self._unlisted.add(Path(error.filename))

    def _note_run_directory(self, path: Path) -> None:
        """Note where a run writes its W&B files; those of one sweep share a folder."""
        owner = path.parent if (path.parent / _SWEEP).is_file() else path
        if self._folders.get(owner):
            return
        try:
            changed = path.stat().st_mtime_ns
            if self._read.get(path) != changed:
                self._folders[owner] = _wandb_folders(RunDirectory(path))
                self._read[path] = changed
        except (UserError, OSError):
            self._folders[owner] = []


def check_roots(roots: Sequence[Path]) -> None:
    """Refuse what is neither a folder nor a `.wandb` file.

    Raises:
        UserError: names it.
    """
    for root in roots:
        if not root.is_dir() and not (root.is_file() and root.suffix == ".wandb"):
            problem = "is neither a folder nor a .wandb file" if root.exists() else "does not exist"
            raise UserError(f"ROOT={root} {problem}; name folders such as outputs, multirun or wandb.")


def _wandb_folders(directory: RunDirectory) -> list[Path]:
    """Where a run writes its W&B files; its configs, which take long to read, say so where the record does not."""
    recorded = recorded_folder(directory.read_wandb())
    return [recorded.resolve()] if recorded and recorded.is_dir() else TrackedRun.read(directory).folders


def _is_searched(folder: str) -> bool:
    """Whether a folder can hold runs of the user: not tests, installed packages or hidden folders."""
    is_hidden = folder.startswith(".") and folder != _HIDDEN_BUT_SEARCHED
    return not is_hidden and folder not in _SKIPPED
