"""The `.wandb` file: LevelDB's log format with W&B's file header, read while it is being written.

The file is cut into blocks of 32 KiB, the first of which begins with a header of 7 bytes. A block holds chunks: a
CRC-32 of type and data, the length of the data, the type (whole record, or the first, a middle or the last part
of one), the data. Where fewer than 7 bytes of a block are left, they are zeros.
"""

import errno
import os
import stat
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

_BLOCK = 32 * 1024
_FILE_HEADER = struct.pack("<4sHB", b":W&B", 0xBEE1, 0)
_CHUNK_HEADER = struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_SEEDS = {kind: zlib.crc32(bytes([kind])) for kind in (_FULL, _FIRST, _MIDDLE, _LAST)}
_MAX_RECORD_BYTES = 256 * 1024 * 1024
_MAX_FILE_BYTES = 4 * 1024**3
_BLOCKS_PER_READ = 32


class UnknownFormatError(Exception):
    """The file does not begin with the header of the known format."""


class CorruptRange(NamedTuple):
    """Bytes of a file that no record could be read from."""

    offset: int
    length: int


class _Chunk(NamedTuple):
    kind: int
    data: bytes
    end: int


class WandbLogReader:
    """The records of a `.wandb` file, each read once, from where the last call stopped.

    The rest of a block is skipped from a damaged chunk on, as LevelDB does, and so are the other parts of a record
    that has lost one. A chunk at the end of a file that may still grow is waited for. Time and memory are bounded:
    a call reads at most 1 MiB, a record has at most 256 MiB, and of a file at most 4 GiB are read.

    Args:
        path: The file; it need not be complete.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.corrupt_ranges: list[CorruptRange] = []
        self.generation = 0
        self.size = 0
        self.has_more = False
        self._position = 0
        self._inode = -1
        self._pending: bytearray | None = None
        self._pending_offset = 0

    @property
    def unread(self) -> int:
        """Bytes at the end that are not a whole chunk; in a file that no longer grows, they are lost."""
        return self.size - self._position

    def read(self) -> list[bytes]:
        """Read the records that have become whole since the last call, at most one portion of the file.

        Afterwards `has_more` says whether there is another portion. If the file was replaced or became shorter, it
        is read from its beginning, and `generation` changes.

        Raises:
            OSError: if it cannot be read.
            UnknownFormatError: if it is not a `.wandb` file of the known format.
        """
        records: list[bytes] = []
        descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe must not block
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            self._check_replacement(file.fileno())
            if self._position == 0 and not self._read_file_header(file.read(len(_FILE_HEADER))):
                return records
            start = self._position
            file.seek(start)
            size = min(_BLOCKS_PER_READ * _BLOCK - start % _BLOCK, max(0, _MAX_FILE_BYTES - start))
            portion = file.read(size)
        while self._position < start + len(portion):
            block_end = (self._position // _BLOCK + 1) * _BLOCK
            if not self._read_block(portion[self._position - start : block_end - start], block_end, records):
                break
        self.has_more = start < self._position < min(self.size, _MAX_FILE_BYTES)
        return records

    def _check_replacement(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(self.path))
        if self._inode not in (-1, status.st_ino) or status.st_size < self._position:
            self.generation += 1
            self.corrupt_ranges.clear()
            self._position, self._pending, self.has_more = 0, None, False
        self._inode, self.size = status.st_ino, status.st_size

    def _read_file_header(self, header: bytes) -> bool:
        if not _FILE_HEADER.startswith(header):
            raise UnknownFormatError(f"{self.path} does not begin like a .wandb file of the known format")
        if len(header) < len(_FILE_HEADER):
            return False
        self._position = len(_FILE_HEADER)
        return True

    def _read_block(self, block: bytes, block_end: int, records: list[bytes]) -> bool:
        """Read the rest of a block; return whether its end was reached."""
        start, offset = self._position, 0
        while (chunk := _chunk_at(block, offset)) is not None:
            self._append_chunk(chunk, start + offset, records)
            offset = chunk.end
        self._position = start + offset
        if start + len(block) < block_end:
            return False
        if len(block) - offset >= _CHUNK_HEADER.size or any(block[offset:]):
            self._drop_pending(self._position)
            self._mark_corrupt(self._position, block_end - self._position)
        self._position = block_end
        return True

    def _append_chunk(self, chunk: _Chunk, offset: int, records: list[bytes]) -> None:
        """Add a part to the record it belongs to."""
        end = offset + _CHUNK_HEADER.size + len(chunk.data)
        if chunk.kind in (_FULL, _FIRST):
            self._drop_pending(offset)
            self._pending, self._pending_offset = bytearray(), offset
        if self._pending is None:  # the beginning of the record is lost
            self._mark_corrupt(offset, end - offset)
            return
        self._pending += chunk.data
        if len(self._pending) > _MAX_RECORD_BYTES:
            self._drop_pending(end)
        elif chunk.kind in (_FULL, _LAST):
            records.append(bytes(self._pending))
            self._pending = None

    def _drop_pending(self, end: int) -> None:
        """Give up the record that has begun before `end`, if any: a part of it is lost."""
        if self._pending is not None:
            self._mark_corrupt(self._pending_offset, end - self._pending_offset)
        self._pending = None

    def _mark_corrupt(self, offset: int, length: int) -> None:
        last = self.corrupt_ranges[-1] if self.corrupt_ranges else CorruptRange(-1, 0)
        if last.offset + last.length == offset:
            self.corrupt_ranges[-1] = CorruptRange(last.offset, last.length + length)
        else:
            self.corrupt_ranges.append(CorruptRange(offset, length))


def _chunk_at(block: bytes, offset: int) -> _Chunk | None:
    """Return the whole and undamaged chunk that begins there, if one does."""
    start = offset + _CHUNK_HEADER.size
    if start > len(block):
        return None
    checksum, length, kind = _CHUNK_HEADER.unpack_from(block, offset)
    if kind not in _SEEDS or start + length > len(block):
        return None
    data = block[start : start + length]
    return _Chunk(kind, data, start + length) if zlib.crc32(data, _SEEDS[kind]) == checksum else None
