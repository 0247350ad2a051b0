"""Reader and writer of `.wandb` files: 32 KiB blocks of chunks with a seven-byte header."""

import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from wandb.proto.wandb_internal_pb2 import Record

FILE_HEADER = struct.pack("<4sHB", b":W&B", 0xBEE1, 0)
BLOCK = 32768
_CHUNK = struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def encode_log(records: Sequence[bytes]) -> tuple[bytes, list[int]]:
    """Return a file with these records, and the offset at which each of them ends."""
    data, ends = bytearray(FILE_HEADER), []
    for record in records:
        rest, first = record, True
        while first or rest:
            room = BLOCK - len(data) % BLOCK
            if room < _CHUNK.size:
                data += bytes(room)
                continue
            part, rest = rest[: room - _CHUNK.size], rest[room - _CHUNK.size :]
            kind = {(True, True): _FULL, (True, False): _FIRST, (False, False): _MIDDLE, (False, True): _LAST}
            code = kind[first, not rest]
            data += _CHUNK.pack(zlib.crc32(bytes([code]) + part), len(part), code) + part
            first = False
        ends.append(len(data))
    return bytes(data), ends


def read_records(path: Path) -> Iterator[Record]:
    """Yield the whole records of a file so far; each checksum must be right."""
    data, position, pending = path.read_bytes(), len(FILE_HEADER), b""
    while position + _CHUNK.size <= len(data):
        room = BLOCK - position % BLOCK
        if room < _CHUNK.size:
            position += room
            continue
        checksum, length, kind = _CHUNK.unpack_from(data, position)
        part = data[position + _CHUNK.size : position + _CHUNK.size + length]
        if len(part) < length:
            break
        assert zlib.crc32(bytes([kind]) + part) == checksum
        pending += part
        position += _CHUNK.size + length
        if kind in (_FULL, _LAST):
            yield Record.FromString(pending)
            pending = b""


def runs(root: Path) -> list[list[Record]]:
    """Return the records of each offline run below a folder."""
    files = sorted((root / "wandb").glob("offline-run-*/run-*.wandb"))
    return [list(read_records(path)) for path in files]
