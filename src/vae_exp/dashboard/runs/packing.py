"""Segments as bytes: a checksum, JSON, then arrays; nothing in them is code."""

import json
import os
import sys
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

from vae_exp.dashboard.reader.records import Value
from vae_exp.dashboard.runs.history import Block, History
from vae_exp.dashboard.runs.media import ImageFile
from vae_exp.dashboard.runs.segment import Alert, Progress, RunInfo, RunSegment

_INT_BYTES = 4
_Array: TypeAlias = "array[Any]"


def pack(segment: RunSegment) -> bytes:
    """Return a segment as bytes; it must have a `progress`."""
    arrays: list[_Array] = [segment.console.lengths, array("B", segment.console.text)]
    state = {
        "info": asdict(segment.info),
        "config": segment.config,
        "summary": segment.summary,
        "environment": segment.environment,
        "pictures": [[x.key, x.step, x.epoch, x.caption, x.path] for x in segment.pictures],
        "alerts": list(segment.alerts),
        "exit_code": segment.exit_code,
        "progress": segment.progress,
        "histories": [_pack_history(history, arrays) for history in (segment.history, segment.machine)],
        "arrays": [(x.typecode, len(x) * x.itemsize) for x in arrays],
    }
    header = json.dumps(state, separators=(",", ":")).encode()
    body = b"".join([len(header).to_bytes(_INT_BYTES, "little"), header, *(x.tobytes() for x in arrays)])
    return zlib.crc32(body).to_bytes(_INT_BYTES, "little") + body


def _pack_history(history: History, arrays: list[_Array]) -> dict[str, Any]:
    arrays.append(history.steps)
    for block in history.blocks.values():
        arrays += block
    return {"keys": list(history.blocks), "non_numeric": history.non_numeric, "full": history.full}


def unpack(data: bytes, path: Path, is_below_root: bool, status: os.stat_result) -> RunSegment:
    """Return the segment of which `pack` has made bytes.

    Args:
        data: The bytes.
        path: Its file.
        is_below_root: As of a segment.
        status: Of the file, which has not changed since.

    Raises:
        ValueError: if the checksum differs.
        Exception: of any kind, if other code made the bytes.
    """
    checksum, body = data[:_INT_BYTES], memoryview(data)[_INT_BYTES:]
    if zlib.crc32(body).to_bytes(_INT_BYTES, "little") != checksum:
        raise ValueError("the checksum differs")
    end = _INT_BYTES + int.from_bytes(body[:_INT_BYTES], "little")
    state = json.loads(bytes(body[_INT_BYTES:end]))
    arrays = _arrays(state["arrays"], body[end:])
    segment = RunSegment(path, is_below_root)
    segment.console.lengths, text = next(arrays), next(arrays)
    segment.console.text = bytearray(text)
    segment.history, segment.machine = (_unpack_history(x, arrays) for x in state["histories"])
    segment.info = RunInfo(**state["info"] | {"tags": tuple(state["info"]["tags"])})
    segment.config, segment.summary = _with_shared_keys(state["config"]), _with_shared_keys(state["summary"])
    segment.environment = _with_shared_keys(state["environment"])
    segment.pictures = [
        ImageFile(key, step, epoch, caption, path.parent, name)
        for key, step, epoch, caption, name in state["pictures"]
    ]
    segment.alerts.extend(Alert(*alert) for alert in state["alerts"])
    segment.exit_code = state["exit_code"]
    segment.resume(Progress(*state["progress"]), status)
    return segment


def _arrays(kinds: list[tuple[str, int]], data: memoryview) -> Iterator[_Array]:
    start = 0
    for typecode, size in kinds:
        values = array(typecode)
        values.frombytes(data[start : start + size])
        yield values
        start += size


def _unpack_history(state: dict[str, Any], arrays: Iterator[_Array]) -> History:
    steps = next(arrays)
    blocks = {tuple(map(sys.intern, keys)): Block(next(arrays), next(arrays)) for keys in state["keys"]}
    return History(steps, blocks, _with_shared_keys(state["non_numeric"]), state["full"])


def _with_shared_keys(values: dict[str, Value]) -> dict[str, Value]:
    return {sys.intern(key): value for key, value in values.items()}
