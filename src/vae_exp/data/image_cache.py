"""Pixels written once into a `.npy` file that later runs read batch by batch."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from vae_exp.data.image_decoding import write_at
from vae_exp.data.pixel_file import FilePixels, open_pixels
from vae_exp.errors import UserError
from vae_exp.storage.atomic_io import read_json, write_json

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CachedPixels:
    """The content of a cache file.

    Args:
        pixels: `[N, channels, height, width]`, uint8.
        notes: Plain values that were written with them.
    """

    pixels: FilePixels
    notes: dict[str, Any]


def open_cache(path: Path, content: str, build: Callable[[Path], dict[str, Any]]) -> CachedPixels:
    """Open a cache file, built first where there is none; of several processes one builds and the others wait.

    Args:
        path: The `.npy` file; its name must follow from all that decides its content.
        content: What is cached, for messages.
        build: Writes the file that it is given, and returns notes on it, which are kept beside it as JSON.

    Raises:
        UserError: if the file cannot be written or read. A part of a file does not remain.
    """
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _lock(path, content):
                if not path.exists():
                    _build(path, build)
        except OSError as error:
            raise UserError(
                f"the cache {path} cannot be written: {error}; free some space, or name another folder, "
                f"data.root=DIR."
            ) from error
    try:
        notes = read_json(path.with_suffix(".json"))
        return CachedPixels(open_pixels(path), notes)
    except (OSError, ValueError, UserError) as error:
        raise UserError(f"the cache {path} cannot be read ({error}); delete it, and it is built again.") from error


def create_npy(path: Path, shape: Sequence[int], dtype: npt.DTypeLike = np.uint8) -> int:
    """Create a `.npy` file of zeros, with its space on the disk reserved.

    Returns:
        The position of the first value, in bytes.

    Raises:
        OSError: if the disk has no space for it.
    """
    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": tuple(shape)}
    size = prod(shape) * np.dtype(dtype).itemsize
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        offset = file.tell()
        file.truncate(offset + size)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, offset + size)
    return offset


def write_npy(
    path: Path, shape: Sequence[int], dtype: npt.DTypeLike, images: Iterable[npt.NDArray[np.generic]]
) -> None:
    """Write images one after the other as a `.npy` file.

    Args:
        path: The file.
        shape: `[N, channels, height, width]` of all images together.
        dtype: uint8 or float32.
        images: Each `[channels, height, width]` of that type.

    Raises:
        OSError: if the disk has no space for it.
    """
    position = create_npy(path, shape, dtype)
    for image in images:
        write_at(path, position, image)
        position += image.nbytes


@contextmanager
def _lock(path: Path, content: str) -> Iterator[None]:
    lock = FileLock(path.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _log.info("Waiting for another process, which writes %s to %s …", content, path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _build(path: Path, build: Callable[[Path], dict[str, Any]]) -> None:
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):  # of processes that were killed: we have the lock
        leftover.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        notes = build(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        write_json(path.with_suffix(".json"), notes)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
