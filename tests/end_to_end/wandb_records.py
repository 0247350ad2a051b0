"""Reads the records of an offline `.wandb` file: 32 KiB blocks of chunks with a seven-byte header."""

from collections.abc import Iterator
from pathlib import Path

from wandb.proto import wandb_internal_pb2

_BLOCK, _HEADER, _FILE_HEADER = 32768, 7, 7
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def records(path: Path) -> Iterator[wandb_internal_pb2.Record]:
    data = path.read_bytes()
    position, pending = _FILE_HEADER, b""
    while position + _HEADER <= len(data):
        left = _BLOCK - position % _BLOCK
        if left < _HEADER:
            position += left
            continue
        length = int.from_bytes(data[position + 4 : position + 6], "little")
        kind = data[position + 6]
        if kind not in (_FULL, _FIRST, _MIDDLE, _LAST):
            position += left
            continue
        pending += data[position + _HEADER : position + _HEADER + length]
        position += _HEADER + length
        if kind in (_FULL, _LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(pending)
            pending = b""
            yield record


def runs(root: Path) -> list[list[wandb_internal_pb2.Record]]:
    """The records of each offline run below a folder."""
    files = sorted((root / "wandb").glob("offline-run-*/run-*.wandb"))
    return [list(records(path)) for path in files]
