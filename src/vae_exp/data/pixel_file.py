"""Pixels that stay in a `.npy` file, of which a batch reads its own rows."""

import os
import sys
import threading
import weakref
from io import FileIO
from math import prod
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vae_exp.errors import UserError

_CHUNK_BYTES = 2**26  # bounds what is read at once
_SEEK_LOCK = threading.Lock()


class FilePixels:
    """Images in a `.npy` file; in place of the tensor `ImageSet.pixels`, where they may be larger than memory.

    A slice, or `index_select`, reads these images into a tensor. `pixels[positions]` with a tensor reads nothing
    and gives the pixels at these positions, in this order. Images are read with `pread`, not through a memory map:
    the kernel maps 2 MiB of a file around each row that is touched at random, which takes longer than to copy it,
    and counts as memory of the process.

    Made by `open_pixels`.

    Args:
        stream: The open file.
        header: Its header.
        layout: The order of its axes: `NHW`, `NCHW` or `NHWC`.
    """

    device = torch.device("cpu")

    def __init__(self, stream: FileIO, header: "NPYHeader", layout: str) -> None:
        shape, dtype = header.shape, header.dtype
        self._header, self._layout = header, layout
        self._row_bytes = dtype.itemsize * prod(shape[1:])
        self._rows = range(shape[0])
        self._positions: Tensor | None = None  # None: all, in order
        self._whole: FilePixels | None = None  # of a selection, what keeps the file open
        self._stream = stream
        weakref.finalize(self, stream.close)
        axes = dict(zip(layout, shape, strict=True))
        self._image_shape = [axes.get("C", 1), axes["H"], axes["W"]]
        self.dtype = torch.float32 if dtype.kind == "f" else torch.uint8
        self._is_plain = layout == "NCHW" and dtype in (np.dtype(np.uint8), np.dtype(np.float32))

    def __len__(self) -> int:
        return len(self._rows) if self._positions is None else len(self._positions)

    @property
    def shape(self) -> torch.Size:
        """`[N, channels, height, width]`."""
        return torch.Size([len(self), *self._image_shape])

    @property
    def nbytes(self) -> int:
        """Bytes of all images together, in memory if they were read."""
        return self.numel() * self.dtype.itemsize

    def numel(self) -> int:
        """Values of all images together."""
        return self.shape.numel()

    def is_floating_point(self) -> bool:
        """Whether the values are floats."""
        return self.dtype.is_floating_point

    @overload
    def __getitem__(self, positions: slice) -> Tensor: ...

    @overload
    def __getitem__(self, positions: Tensor) -> "FilePixels": ...

    def __getitem__(self, positions: slice | Tensor) -> "Tensor | FilePixels":
        if isinstance(positions, Tensor):
            return self._select(positions)
        if self._positions is not None:
            return self._read(self._positions[positions].tolist())
        return self._read(self._rows[positions])

    def index_select(self, dim: int, positions: Tensor) -> Tensor:
        """Read the images at these positions, `[len(positions), channels, height, width]`; `dim` is 0."""
        assert dim == 0, "images are on the first axis"
        return self._read(self._file_rows(positions))

    def read_into(self, out: Tensor, positions: Tensor) -> None:
        """Read the images at these positions into a tensor of their shape and type, on the CPU."""
        if self._is_plain:
            self._fill(out.numpy(), self._file_rows(positions))
        else:
            out.copy_(self._read(self._file_rows(positions)))

    def to(self, device: torch.device) -> Tensor:
        """Read all images into the memory of a device."""
        pixels = torch.empty(self.shape, dtype=self.dtype, device=device)
        step = max(1, _CHUNK_BYTES // max(1, self._row_bytes))
        for start in range(0, len(self), step):
            pixels[start : start + step] = self[start : start + step]
        return pixels

    def _select(self, positions: Tensor) -> "FilePixels":
        part = FilePixels.__new__(FilePixels)
        part.__dict__.update(self.__dict__)
        part._whole = self._whole or self
        part._positions = positions if self._positions is None else self._positions[positions]
        return part

    def _file_rows(self, positions: Tensor) -> list[int]:
        rows: list[int] = (positions if self._positions is None else self._positions[positions]).tolist()
        return rows

    def _read(self, rows: "list[int] | range") -> Tensor:
        array = np.empty((len(rows), *self._header.shape[1:]), dtype=self._header.dtype)
        self._fill(array, rows)
        if self._header.dtype.kind == "f":
            array = array.astype(np.float32, copy=False)
        elif self._header.dtype.kind == "b":
            array = array.view(np.uint8)
        pixels = torch.from_numpy(array)
        if self._layout == "NHW":
            return pixels.unsqueeze(1)
        return pixels.permute(0, 3, 1, 2).contiguous() if self._layout == "NHWC" else pixels

    def _fill(self, array: npt.NDArray[np.generic], rows: "list[int] | range") -> None:
        size = self._row_bytes
        if not len(rows) or not size:
            return
        target = memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
        if isinstance(rows, range) and rows.step == 1:
            self._read_bytes(target, rows[0])
            return
        for number, row in enumerate(rows):
            self._read_bytes(target[number * size : (number + 1) * size], row)

    def _read_bytes(self, target: memoryview, row: int) -> None:
        start, read = self._header.offset + row * self._row_bytes, 0
        while read < len(target):
            count = _read_at(self._stream, target[read:], start + read)
            if not count:
                raise UserError(
                    f"{self._stream.name!s} has been cut while it is in use, at image {row}; write it again."
                )
            read += count


def _read_at(stream: FileIO, target: memoryview, offset: int) -> int:
    """Read bytes of a file that threads may share; how many, 0 at its end."""
    if sys.platform == "win32":  # which has no `preadv`
        with _SEEK_LOCK:
            stream.seek(offset)
            return stream.readinto(target)
    return os.preadv(stream.fileno(), [target], offset)


class NPYHeader(NamedTuple):
    """What the head of a `.npy` file says; `offset` is where its values begin, in bytes."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    offset: int


def read_npy_header(path: Path) -> NPYHeader:
    """Read the head of a `.npy` file.

    Raises:
        OSError: if the file cannot be opened.
        ValueError: if it is not such a file, if it holds pickled objects or is in Fortran order, or if it is cut.
    """
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read(file)
        offset = file.tell()
    if dtype.hasobject:
        raise ValueError("it holds pickled objects, which are never loaded")
    if is_fortran and len(shape) > 1:
        raise ValueError("its axes are in Fortran order; save numpy.ascontiguousarray(images)")
    if path.stat().st_size < offset + dtype.itemsize * prod(shape):
        raise ValueError("it is shorter than its header says")
    return NPYHeader(shape, dtype, offset)


def open_pixels(path: Path, layout: str = "NCHW") -> FilePixels:
    """Open a `.npy` file of images.

    Args:
        path: The file, with the images on the first axis, in C order.
        layout: The order of its axes: `NHW`, `NCHW` or `NHWC`.

    Raises:
        OSError: if the file cannot be opened.
        ValueError: if it cannot be read by rows.
    """
    header = read_npy_header(path)
    if len(header.shape) != len(layout):
        raise ValueError(f"it has shape {list(header.shape)}, which is not {layout}")
    return FilePixels(FileIO(path), header, layout)
