"""Pixels written once into a `.npy` file that later runs read batch by batch."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from shutil import disk_usage
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from vae_exp.data.image_decoding import write_at
from vae_exp.data.pixel_file import FilePixels, open_pixels
from vae_exp.errors import Interrupted, UserError
from vae_exp.storage.atomic_io import read_json, write_json

_log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class CachedPixels(Generic[T]):
    """The content of a cache file.

    Args:
        pixels: `[N, channels, height, width]`, uint8.
        notes: What was written with them, as `read_notes` gives it.
    """

    pixels: FilePixels
    notes: T


def open_cache(
    path: Path, content: str, build: Callable[[Path], dict[str, Any]], read_notes: Callable[[Any], T]
) -> CachedPixels[T]:
    """Open a cache file, built first where there is none; of several processes one builds and the others wait.

    Args:
        path: The `.npy` file; its name must follow from all that decides its content.
        content: What is cached, for messages.
        build: Writes the file that it is given, and returns notes on it, which are kept beside it as JSON.
        read_notes: Makes of these notes what is returned; may raise any error if they are damaged.

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
        return CachedPixels(open_pixels(path), read_notes(read_json(path.with_suffix(".json"))))
    except Interrupted:
        raise
    except Exception as error:  # damaged notes raise errors of any kind
        raise UserError(
            f"the cache {path} cannot be read ({type(error).__name__}: {error}); delete it, and it is built again."
        ) from error


def create_npy(path: Path, shape: Sequence[int], dtype: npt.DTypeLike = np.uint8) -> int:
    """Create a `.npy` file of zeros, with its space on the disk reserved.

    Returns:
        The position of the first value, in bytes.

    Raises:
        OSError: if the disk has no space for it.
        UserError: if it is larger than the whole disk.
    """
    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": tuple(shape)}
    size, disk = prod(shape) * np.dtype(dtype).itemsize, disk_usage(path.parent).total
    if size > disk:
        raise UserError(
            f"{shape[0]:,} images of {list(shape[1:])} take {size / 1e9:,.1f} GB, more than the disk of "
            f"{path.parent} has ({disk / 1e9:,.1f} GB); use smaller or fewer images, or name another folder, "
            f"data.root=DIR."
        )
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
