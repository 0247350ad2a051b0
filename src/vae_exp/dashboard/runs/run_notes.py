"""Notes that people write on a run: the file `notes.md` of its run directory."""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from stat import S_ISREG

from vae_exp.errors import UserError
from vae_exp.storage.atomic_io import open_regular, write_atomically
from vae_exp.storage.run_directory import NOTES, RunDirectory

MAX_CHARACTERS = 10_000
_MAX_BYTES = 4 * MAX_CHARACTERS
_write_lock = threading.Lock()

Status = tuple[int, int, int]


class NoteChangedError(UserError):
    """The note is no longer the one that was edited."""


@dataclass(frozen=True)
class Note:
    """A note.

    Args:
        text: At most `MAX_CHARACTERS` of it.
        problem: Why it is not all of the file; empty if it is.
    """

    text: str = ""
    problem: str = ""

    @property
    def version(self) -> str:
        """What changes with the text."""
        return sha256(self.text.encode()).hexdigest()


def note_status(directory: str) -> Status | None:
    """Return what changes when the note in a run directory does; None if there is none."""
    try:
        status = os.lstat(f"{directory}/{NOTES}")  # for thousands of runs a Path takes too long
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


class NoteFiles:
    """Reads and writes notes in run directories below the roots.

    Args:
        is_below_a_root: Whether a run directory is below one of the roots.
    """

    def __init__(self, is_below_a_root: Callable[[str], bool]) -> None:
        self._is_below_a_root = is_below_a_root

    def read(self, directory: str) -> Note:
        """Return the note of a run directory; an empty one if there is none or it may not be read."""
        try:
            return _read(self._notes(directory))
        except (OSError, UserError) as error:
            return Note() if isinstance(error, FileNotFoundError) else Note(problem=str(error))

    def check(self, directory: str) -> None:
        """Make sure that the note of a run directory can be written.

        Raises:
            UserError: says why it cannot.
        """
        path = self._notes(directory)
        if path.is_file():
            problem = _read(path).problem
            if problem:
                raise UserError(problem)

    def write(self, directory: str, text: str, version: str) -> Note:
        """Replace the note of a run directory; an empty text removes it.

        Args:
            directory: The run directory.
            text: At most `MAX_CHARACTERS`.
            version: That of the note that was edited.

        Returns:
            The new note.

        Raises:
            UserError: if no note can be kept there; `NoteChangedError` if the note is another one by now.
            OSError: if it cannot be written.
        """
        if len(text) > MAX_CHARACTERS:
            raise UserError(f"a note has at most {MAX_CHARACTERS:,} characters.")
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            raise UserError("the note holds characters that no file can.") from error
        with _write_lock:
            self.check(directory)
            path = self._notes(directory)
            if self.read(directory).version != version:
                raise NoteChangedError(f"{path} has changed since it was opened here; nothing is saved.")
            if text.strip():
                write_atomically(path, lambda file: file.write(data))
            else:
                path.unlink(missing_ok=True)
            return self.read(directory)

    def _notes(self, directory: str) -> Path:
        """Return the file of the notes, in a folder without links.

        Raises:
            UserError: says why no note can be kept there.
        """
        if not directory:
            raise UserError("this run has no run directory, in which a note could be kept.")
        if not self._is_below_a_root(directory):
            raise UserError(f"the run directory {directory} is not below the folders of this dashboard.")
        run_dir = RunDirectory(Path(directory).resolve())
        if not run_dir.path.is_dir() or not run_dir.contains_run():
            raise UserError(f"{directory} holds no run here.")
        if os.path.lexists(run_dir.notes) and not S_ISREG(run_dir.notes.lstat().st_mode):
            raise UserError(f"{run_dir.notes} is not a regular file.")
        return run_dir.notes


def _read(path: Path) -> Note:
    with open_regular(path) as file:
        data = file.read(_MAX_BYTES + 1)
    text, is_text = _decode(data)
    if len(data) > _MAX_BYTES or len(text) > MAX_CHARACTERS:
        problem = f"{path.name} has more than {MAX_CHARACTERS:,} characters; edit it with an editor."
        return Note(text[:MAX_CHARACTERS] + "…", problem)
    return Note(text, "" if is_text else f"{path.name} is not UTF-8; edit it with an editor.")


def _decode(data: bytes) -> tuple[str, bool]:
    """Return the text, and whether it is all that the bytes say."""
    try:
        return data.decode(), True
    except UnicodeDecodeError:
        return data.decode(errors="replace"), False
