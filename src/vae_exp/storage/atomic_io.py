"""Files: atomic writes, checks of paths, and JSON and YAML read from files that may come from a stranger."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BufferedReader
from math import isfinite
from pathlib import Path
from stat import S_ISREG
from typing import IO, Any

import yaml

from vae_exp.errors import UserError

MAX_BYTES = 2**30
MAX_YAML_BYTES = 1_000_000
_MAX_DEPTH = 100
_NONBLOCK = getattr(os, "O_NONBLOCK", 0)  # Windows has no such flag
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file to read bytes; to open a pipe would wait, and a device has no end.

    Raises:
        OSError: if it cannot be opened.
        UserError: if it is not a regular file.
    """
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | _NONBLOCK))  # noqa: SIM115
    if not S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise UserError(f"{path} is not a regular file.")
    return file


def read_regular(path: Path, limit: int = MAX_BYTES) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: if it cannot be read.
        UserError: if it is not a regular file of at most `limit` bytes.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > limit:
            raise UserError(f"{path} is larger than expected, at most {limit:,} bytes; refused.")
        return file.read()


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> Any:
    """The value that a JSON file holds.

    Raises:
        OSError: if it cannot be read.
        UserError: if it is not JSON, or not a regular file.
    """
    try:
        return json.loads(read_regular(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}).") from error


def read_yaml(path: Path) -> Any:
    """The tree of plain values that a YAML file holds.

    Aliases are refused: a few lines of them unfold without bound. Deep nesting overflows the stack of PyYAML.

    Raises:
        OSError: if it cannot be read.
        UserError: if it is not YAML, not a regular file of bounded size, holds an alias or is deeply nested.
    """
    text = read_regular(path, MAX_YAML_BYTES)
    try:
        depth = 0
        for event in yaml.parse(text, Loader=_LOADER):
            if isinstance(event, yaml.AliasEvent):
                raise UserError(f"{path} holds the alias *{event.anchor}, which no stored file has; refused.")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _MAX_DEPTH:
                raise UserError(f"{path} is nested more than {_MAX_DEPTH} levels deep; refused.")
        return yaml.load(text, Loader=_LOADER)  # noqa: S506 - a safe loader
    except UserError:
        raise
    except Exception as error:  # a YAML constructor stumbles over its values in any way it likes
        raise UserError(f"{path} is not plain YAML: {type(error).__name__}: {error}") from error


def absolute_path(key: str, value: str) -> Path:
    """The path that a user gave, `~` expanded, anchored at the working directory of the moment.

    Raises:
        UserError: if it names a home folder that does not exist.
    """
    try:
        return Path(os.path.abspath(Path(value).expanduser()))  # noqa: PTH100 - also resolves ..
    except RuntimeError as error:
        raise UserError(f"{key}={value} names a home folder that does not exist.") from error


def check_within(path: Path, folder: Path) -> None:
    """Refuse to write through a link that leads out of a folder, or into a pipe or a device.

    Raises:
        UserError: names the path and where it leads.
    """
    target = Path(os.path.realpath(path))  # also of a link to itself
    if not target.is_relative_to(folder.resolve()):
        raise UserError(f"{path} leads out of {folder}, to {target}; refused.")
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UserError(f"{path} is neither a file nor a folder; refused.")


def check_all_within(folder: Path) -> None:
    """`check_within` for all that a folder holds."""
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            check_within(Path(parent, name), folder)


def check_writable(path: Path, key: str) -> None:
    """Make sure that files can be written into a directory, or into one that can be made there.

    Raises:
        UserError: names the key and the reason; a directory made for the trial is removed again.
    """
    made = [each for each in (path, *path.parents) if not each.exists()]
    try:
        try:
            _write_probe(path)
        except FileNotFoundError:  # another process has just tidied up after a trial of its own
            _write_probe(path)
    except OSError as error:
        raise UserError(f"{key}={path} cannot be written to: {error}.") from error
    finally:
        for each in made:
            with suppress(OSError):  # in use by now
                each.rmdir()


def _write_probe(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path) as probe:
        probe.write(b"0" * 4096)


def is_about(error: OSError, path: Path | None) -> bool:
    """Whether an error names a file, or none."""
    return error.filename is None or (path is not None and str(error.filename) == str(path))


@contextmanager
def name_in_errors(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """A block that writes a file: its errors name that file, where they name none or the temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno is None or not is_about(error, temporary):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any], temporary: Path | None = None) -> None:
    """Let `write` fill a temporary file, flush it to the disk, then give it its name.

    A reader sees the old file or the new one, never a part; after a failure the old one stands.

    Args:
        path: The file.
        write: Writes its content.
        temporary: The temporary file, on the same disk; by default a hidden one beside `path`.
    """
    temporary = temporary or path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with name_in_errors(path, temporary):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def fsync_directory(folder: Path) -> None:
    """Flush the names in a folder to the disk, so that they outlive a loss of power."""
    with suppress(OSError):  # a file system that does not know this
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object atomically; numbers that JSON does not know (NaN, infinities) become null."""
    text = json.dumps(_strict(content), indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def to_json_line(content: Mapping[str, Any]) -> str:
    """One line of strict JSON."""
    return json.dumps(_strict(content), allow_nan=False) + "\n"


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _strict(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(entry) for entry in value]
    if isinstance(value, float) and not isfinite(value):
        return None
    return value
