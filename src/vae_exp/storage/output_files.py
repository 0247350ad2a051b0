"""Files and folders that a user names as output: checks before the work, and temporary files beside them."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import IO, Any

from filelock import FileLock, Timeout

from vae_exp.errors import UserError
from vae_exp.storage.atomic_io import check_writable, is_about, name_in_errors, write_atomically

_PREFIX = ".vae_exp-"
_LOCK = ".lock"


def require_new(path: Path, *, overwrite: bool) -> None:
    """Refuse to write `output=PATH` where something is.

    Raises:
        UserError: unless it may be replaced.
    """
    if os.path.lexists(path) and not overwrite:
        raise UserError(f"output={path} exists; overwrite=true replaces it, output=PATH writes elsewhere.")


def check_output_file(path: Path, *, overwrite: bool) -> None:
    """Refuse `output=PATH` where something is, or where no file can be written.

    Raises:
        UserError: names the path and the reason.
    """
    if path.is_dir():
        raise UserError(f"output={path} is a folder; name a file in it.")
    require_new(path, overwrite=overwrite)
    if path.is_file() or not path.exists():  # no device, and no pipe
        check_writable(_resolve_links(path).parent, "output")


@contextmanager
def output_errors(key: str, path: Path) -> Iterator[None]:
    """A block that writes what a user asked for, in which an error such as a full disk names the key.

    Raises:
        UserError: names the key, the path, the reason and the remedy.
    """
    try:
        yield
    except BrokenPipeError:  # of standard output
        raise
    except OSError as error:
        reason = error.strerror if is_about(error, path) and error.strerror else error
        raise UserError(
            f"{key}={path} cannot be written: {reason}; free some space there, or name another place, {key}=PATH."
        ) from error


def write_to_user_path(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """`write_atomically` for a path that a user names: links are followed, devices and pipes written into."""
    path = _resolve_links(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        with name_in_errors(path), path.open("wb") as file:
            write(file)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(path.parent) as folder:
        write_atomically(path, write, folder / path.name)


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """A folder of this process in `parent` for the length of a block.

    Those that killed processes have left there are removed first: the lock in them is free.
    """
    for leftover in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError, Timeout):
            if (leftover / _LOCK).is_file():
                with FileLock(leftover / _LOCK, timeout=0):
                    rmtree(leftover)
    folder = Path(mkdtemp(prefix=_PREFIX, dir=parent))
    try:
        with FileLock(folder / _LOCK):
            if (folder / _LOCK).exists():
                yield folder
                return
    finally:
        rmtree(folder, ignore_errors=True)
    with temporary_folder(parent) as folder:  # another process took the first one for a leftover before its lock
        yield folder


def _resolve_links(path: Path) -> Path:
    """Where a link leads; a link to itself, which leads nowhere, is the path itself."""
    return Path(os.path.realpath(path))
