"""The `.wandb` file: LevelDB's log format with W&B's file header, written, and read while it is being written.

The file is cut into blocks of 32 KiB, the first of which begins with a header of 7 bytes. A block holds chunks: a
CRC-32 of type and data, the length of the data, the type (whole record, or the first, a middle or the last part
of one), the data. Where fewer than 7 bytes of a block are left, they are zeros.
"""

import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

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


class WandbLogReader:
    """The records of a `.wandb` file, each read once, from where the last call stopped.

    The rest of a block is skipped from a damaged chunk on, as LevelDB does, and so are the other parts of a record
    that has lost one. A chunk at the end of a file that may still grow is waited for. Time and memory are bounded:
    a call reads at most 1 MiB, a record has at most 256 MiB, and of a file at most 4 GiB are read.

    Args:
        path: A regular file; it need not be complete.
        position: Where to start: 0, or the `position` of another reader of the file that was between two records.
        size: Of the file, as that reader had it.
        corrupt_bytes: How many it had skipped.
    """

    def __init__(self, path: Path, position: int = 0, size: int = 0, corrupt_bytes: int = 0) -> None:
        self.path = path
        self.position = position
        self.size = size
        self.corrupt_bytes = corrupt_bytes
        self.has_more = False
        self._pending: bytearray | None = None

    @property
    def unread(self) -> int:
        """Bytes at the end that are not a whole chunk; in a file that no longer grows, they are lost."""
        return self.size - self.position

    @property
    def is_between_records(self) -> bool:
        """Whether no record has begun that is not yet whole."""
        return self._pending is None

    def read(self) -> list[bytes]:
        """Read the records that have become whole since the last call, at most one portion of the file.

        Afterwards `has_more` says whether there is another portion.

        Raises:
            OSError: if it cannot be read.
            UnknownFormatError: if it is not a `.wandb` file of the known format.
        """
        records: list[bytes] = []
        with self.path.open("rb", buffering=0) as file:
            self.size = os.fstat(file.fileno()).st_size
            if self.position == 0 and not self._read_file_header(file.read(len(_FILE_HEADER))):
                return records
            start = file.seek(self.position)
            size = min(_BLOCKS_PER_READ * _BLOCK - start % _BLOCK, max(0, _MAX_FILE_BYTES - start))
            portion = memoryview(file.read(size))
        end = start + len(portion)
        while self.position < end:
            offset, room = self.position - start, _BLOCK - self.position % _BLOCK
            chunk = _parse_chunk(portion, offset, room)
            if chunk is not None:
                self._append_chunk(*chunk, records)
                self.position += _CHUNK_HEADER.size + len(chunk[1])
            elif len(portion) - offset < room:
                break
            else:
                if room >= _CHUNK_HEADER.size or any(portion[offset : offset + room]):
                    self._drop_pending()
                    self.corrupt_bytes += room
                self.position += room
        self.has_more = start < self.position < min(self.size, _MAX_FILE_BYTES)
        return records

    def _read_file_header(self, header: bytes) -> bool:
        if not _FILE_HEADER.startswith(header):
            raise UnknownFormatError(f"{self.path} does not begin like a .wandb file of the known format")
        if len(header) < len(_FILE_HEADER):
            return False
        self.position = len(_FILE_HEADER)
        return True

    def _append_chunk(self, kind: int, data: memoryview, records: list[bytes]) -> None:
        """Add a part to the record it belongs to."""
        if kind == _FULL:
            self._drop_pending()
            records.append(bytes(data))
            return
        if kind == _FIRST:
            self._drop_pending()
            self._pending = bytearray()
        if self._pending is None:  # the beginning of the record is lost
            self.corrupt_bytes += len(data)
            return
        self._pending += data
        if len(self._pending) > _MAX_RECORD_BYTES:
            self._drop_pending()
        elif kind == _LAST:
            records.append(bytes(self._pending))
            self._pending = None

    def _drop_pending(self) -> None:
        """Give up the record that has begun, if any: a part of it is lost."""
        self.corrupt_bytes += len(self._pending or b"")
        self._pending = None


def read_records(path: Path) -> Iterator[Any]:
    """The records of a whole file, as W&B's protobuf messages.

    Raises:
        OSError: if it cannot be read.
        UnknownFormatError: if it is not a `.wandb` file of the known format.
        Exception: whatever protobuf raises for bytes that are no record.
    """
    log = WandbLogReader(path)
    yield from map(record_class().FromString, log.read())
    while log.has_more:
        yield from map(record_class().FromString, log.read())


def record_class() -> Any:
    """W&B's protobuf message of a record; imports W&B."""
    from wandb.proto import wandb_internal_pb2

    return vars(wandb_internal_pb2)["Record"]


def encode_log(records: Iterable[bytes]) -> bytes:
    """The contents of a `.wandb` file with these records."""
    data = bytearray(_FILE_HEADER)
    for record in records:
        rest, kinds = memoryview(record), (_FULL, _FIRST)
        while rest or kinds == (_FULL, _FIRST):
            room = _BLOCK - len(data) % _BLOCK - _CHUNK_HEADER.size
            if room < 0:
                data += bytes(room + _CHUNK_HEADER.size)
                continue
            part, rest = rest[:room], rest[room:]
            kind = kinds[bool(rest)]
            data += _CHUNK_HEADER.pack(zlib.crc32(part, _SEEDS[kind]), len(part), kind) + part
            kinds = (_LAST, _MIDDLE)
    return bytes(data)


def _parse_chunk(portion: memoryview, offset: int, room: int) -> tuple[int, memoryview] | None:
    """Return type and data of the chunk at an offset if it is whole, undamaged and within `room` bytes."""
    first = offset + _CHUNK_HEADER.size
    if first > len(portion) or room < _CHUNK_HEADER.size:
        return None
    checksum, length, kind = _CHUNK_HEADER.unpack_from(portion, offset)
    data = portion[first : first + length]
    is_whole = len(data) == length <= room - _CHUNK_HEADER.size
    if kind not in _SEEDS or not is_whole or zlib.crc32(data, _SEEDS[kind]) != checksum:
        return None
    return kind, data
