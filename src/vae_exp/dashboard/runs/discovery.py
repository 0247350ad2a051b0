"""Finds `.wandb` files: below folders, and where the runs of sweeps and run directories have written theirs."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from vae_exp.errors import UserError
from vae_exp.storage.run_directory import RunDirectory
from vae_exp.tracking.offline_search import Tracked

_MOST_FILES = 20_000
_SKIPPED = {"tests", "node_modules", "__pycache__", "checkpoints", "figures", "media", "site-packages"}
_HYDRA = ".hydra"
_HIDDEN_BUT_SEARCHED = ".wandb"  # W&B writes there instead of into wandb/ where such a folder exists


class RunDiscovery:
    """Looks again and again for files below the same roots.

    Args:
        roots: Folders, which are searched at any depth, links, hidden folders, `tests` and installed packages
            left alone; or `.wandb` files.
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        self._roots = [root.resolve() for root in roots]
        self._folders: dict[Path, list[Path]] = {}
        self._unlisted: set[Path] = set()

    def files(self) -> dict[Path, bool]:
        """The files, and whether they lie below a root; of others only runs that do so are meant."""
        self._unlisted.clear()
        found: dict[Path, bool] = {}
        seen: set[tuple[int, int]] = set()
        for path, inside in self._candidates():
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            except OSError:
                self._unlisted.add(path)
                continue
            if (status.st_dev, status.st_ino) not in seen and len(found) < _MOST_FILES:
                seen.add((status.st_dev, status.st_ino))
                found[path] = inside
        return found

    def is_out_of_sight(self, path: Path) -> bool:
        """Whether a file was not found for no other reason than that a folder could not be looked at."""
        return any(path.is_relative_to(folder) for folder in self._unlisted)

    def is_below_a_root(self, run_directory: object) -> bool:
        """Whether a run with this directory is one of those that were asked for."""
        if not isinstance(run_directory, str):
            return False
        try:
            path = Path(run_directory).resolve()
        except (OSError, ValueError, RuntimeError):
            return False
        return any(path.is_relative_to(root) for root in self._roots)

    def _candidates(self) -> Iterator[tuple[Path, bool]]:
        for root in self._roots:
            if root.is_file():
                yield root, True
            else:
                yield from ((path, True) for path in self._below(root))
        for folder in sorted({folder for folders in self._folders.values() for folder in folders}):
            yield from (
                (path, False) for path in sorted(folder.glob("*run-*/run-*.wandb")) if not path.is_symlink()
            )

    def _below(self, root: Path) -> Iterator[Path]:
        for folder, folders, files in os.walk(root, followlinks=False, onerror=self._note_unlisted):
            if _HYDRA in folders:
                self._note_run_directory(Path(folder))
            folders[:] = sorted(each for each in folders if _is_searched(each))
            for name in sorted(files):
                path = Path(folder, name)
                if name.endswith(".wandb") and not path.is_symlink():
                    yield path

    def _note_unlisted(self, error: OSError) -> None:
        if error.filename is not None and not isinstance(error, FileNotFoundError | NotADirectoryError):
            self._unlisted.add(Path(error.filename))

    def _note_run_directory(self, path: Path) -> None:
        """Learn where the runs of a folder write their W&B files; those of one sweep have one place."""
        if self._folders.get(path.parent):
            return
        try:
            self._folders[path.parent] = Tracked.read(RunDirectory(path)).folders()
        except (UserError, OSError):
            self._folders[path.parent] = []


def _is_searched(folder: str) -> bool:
    """Whether a folder can hold runs of the user's: not tests, installed packages or hidden folders."""
    is_hidden = folder.startswith(".") and folder != _HIDDEN_BUT_SEARCHED
    return not is_hidden and folder not in _SKIPPED
