"""The `.wandb` file: LevelDB's log format with W&B's file header, read while it is being written.

The file is cut into blocks of 32 KiB, the first of which begins with a header of 7 bytes. A block holds chunks: a
CRC-32 of type and data, the length of the data, the type (whole record, or the first, a middle or the last part
of one), the data. Where fewer than 7 bytes of a block are left, they are zeros.
"""

import errno
import os
import re
import stat
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

_BLOCK = 32 * 1024
_FILE_HEADER = struct.pack("<4sHB", b":W&B", 0xBEE1, 0)
_CHUNK_HEADER = struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_SEEDS = {kind: zlib.crc32(bytes([kind])) for kind in (_FULL, _FIRST, _MIDDLE, _LAST)}
_MOST_BYTES_OF_A_RECORD = 256 * 1024 * 1024
_BLOCKS_AT_ONCE = 32
_A_KIND = re.compile(rb"[\x01-\x04]")


class UnknownFormatError(Exception):
    """The file does not begin as this reader knows it."""


@dataclass(frozen=True)
class Damage:
    """Bytes of a file that no record could be read from.

    Args:
        offset: Where they begin.
        length: How many.
    """

    offset: int
    length: int


@dataclass(frozen=True)
class _Chunk:
    kind: int
    data: bytes
    end: int


class WandbLogReader:
    """The records of a `.wandb` file, each read once, from where the last call has stopped.

    What is damaged is skipped and noted, and so are the other parts of a record that has lost one; a last chunk
    that is not whole yet is waited for.

    Args:
        path: The file; it need not be complete.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damages: list[Damage] = []
        self.generation = 0
        self.size = 0
        self.has_more = False
        self._position = 0
        self._inode = -1
        self._start_over()

    @property
    def unread(self) -> int:
        """Bytes at the end that are not a whole chunk; of a file that no longer grows, they are lost."""
        return self.size - self._position

    def read(self) -> list[bytes]:
        """The records that have become whole since the last call, as far as one portion of the file goes.

        Afterwards `has_more` tells whether another portion is at hand. If the file was replaced or became shorter,
        it is read from its beginning, and `generation` is another.

        Raises:
            OSError: if it cannot be read.
            UnknownFormatError: if it is not a `.wandb` file of the known format.
        """
        records: list[bytes] = []
        descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe must not hold us up
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            self._notice_replacement(file.fileno())
            if self._position == 0 and not self._read_file_header(file.read(len(_FILE_HEADER))):
                return records
            self._skip_hole(file.fileno())
            before = self._position
            file.seek(before)
            self._read_portion(file.read(_BLOCKS_AT_ONCE * _BLOCK - before % _BLOCK), records)
            self.has_more = before < self._position < self.size
        return records

    def _skip_hole(self, descriptor: int) -> None:
        """Go over blocks that were never written, which a sparse file can have by the million."""
        if not hasattr(os, "SEEK_DATA") or self._position >= self.size:
            return
        try:
            data_at = os.lseek(descriptor, self._position, os.SEEK_DATA)
        except OSError:  # there are none behind it
            data_at = self.size
        target = data_at - data_at % _BLOCK
        if target > self._position:
            self._skip(self._position, target - self._position)
            self._position = target

    def _start_over(self) -> None:
        self._position = 0
        self.has_more = False
        self._parts: list[bytes] | None = None
        self._parts_at = self._parts_size = 0
        self.damages.clear()

    def _notice_replacement(self, descriptor: int) -> None:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(self.path))
        if self._inode not in (-1, found.st_ino) or found.st_size < self._position:
            self.generation += 1
            self._start_over()
        self._inode, self.size = found.st_ino, found.st_size

    def _read_file_header(self, header: bytes) -> bool:
        if not _FILE_HEADER.startswith(header):
            raise UnknownFormatError(f"{self.path} does not begin like a .wandb file of the known format")
        if len(header) < len(_FILE_HEADER):
            return False
        self._position = len(_FILE_HEADER)
        return True

    def _read_portion(self, portion: bytes, records: list[bytes]) -> None:
        """Read the blocks of a portion that begins at the position."""
        start, end = self._position, self._position + len(portion)
        while self._position < end:
            block_end = (self._position // _BLOCK + 1) * _BLOCK
            block = portion[self._position - start : block_end - start]
            if not self._read_block(block, block_end, records):
                return

    def _read_block(self, block: bytes, block_end: int, records: list[bytes]) -> bool:
        """Read the rest of a block; whether the position has come to its end."""
        start = self._position
        whole = start + len(block) == block_end
        at = 0
        while len(block) - at >= _CHUNK_HEADER.size:
            chunk = _chunk_at(block, at)
            if chunk is None:
                found = _next_chunk(block, at + 1)
                if found is None:
                    break
                self._skip(start + at, found - at)
                at = found
                continue
            self._take(chunk, start + at, records)
            at = chunk.end
        self._position = start + at
        if not whole:
            return False
        if len(block) - at >= _CHUNK_HEADER.size or any(
            block[at:]
        ):  # zeros are a hole, as a broken copy leaves it
            self._skip(start + at, len(block) - at)
        self._position = block_end
        return True

    def _take(self, chunk: _Chunk, offset: int, records: list[bytes]) -> None:
        """Put the parts of records together."""
        begins = chunk.kind in (_FULL, _FIRST)
        if begins and self._parts is not None:
            self._drop_parts()
        if not begins and self._parts is None:  # its beginning is lost
            self._note_damage(offset, _CHUNK_HEADER.size + len(chunk.data))
            return
        if begins:
            self._parts, self._parts_at, self._parts_size = [], offset, 0
        assert self._parts is not None
        self._parts.append(chunk.data)
        self._parts_size += len(chunk.data)
        if self._parts_size > _MOST_BYTES_OF_A_RECORD:
            self._drop_parts()
        elif chunk.kind in (_FULL, _LAST):
            records.append(b"".join(self._parts))
            self._parts = None

    def _skip(self, offset: int, length: int) -> None:
        """Bytes are lost, and with them the record that had begun before."""
        self._drop_parts()
        self._note_damage(offset, length)

    def _drop_parts(self) -> None:
        """A record has lost a part, and with it the others."""
        if self._parts:
            self._note_damage(self._parts_at, self._parts_size + len(self._parts) * _CHUNK_HEADER.size)
        self._parts = None

    def _note_damage(self, offset: int, length: int) -> None:
        last = self.damages[-1] if self.damages else None
        if last is not None and last.offset + last.length == offset:
            self.damages[-1] = Damage(last.offset, last.length + length)
        else:
            self.damages.append(Damage(offset, length))


def _chunk_at(block: bytes, at: int) -> _Chunk | None:
    """The whole and undamaged chunk that begins there, if one does."""
    checksum, length, kind = _CHUNK_HEADER.unpack_from(block, at)
    begin = at + _CHUNK_HEADER.size
    if kind not in _SEEDS or begin + length > len(block):
        return None
    data = block[begin : begin + length]
    return _Chunk(kind, data, begin + length) if zlib.crc32(data, _SEEDS[kind]) == checksum else None


def _next_chunk(block: bytes, at: int) -> int | None:
    """Where in the rest of a block the next undamaged chunk begins."""
    for found in _A_KIND.finditer(block, at + _CHUNK_HEADER.size - 1):
        place = found.start() - _CHUNK_HEADER.size + 1
        if _chunk_at(block, place) is not None:
            return place
    return None
