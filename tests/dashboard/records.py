"""Builders of offline runs as W&B writes them, hostile ones too."""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

from tests.wandb_records import encode_log
from vae_exp.tracking.wandb_log import WandbLogReader

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010800000000"
    "3a7e9b550000000a49444154789c6360000000020001e221bc330000000049454e44ae426082"
)


def _add_items(target: Any, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        item = target.add()
        item.nested_key.append(key) if hasattr(item, "nested_key") else setattr(item, "key", key)
        item.value_json = json.dumps(value)


def run_record(run_id: str, config: Mapping[str, Any], started: int = 1_700_000_000, **fields: Any) -> bytes:
    record = Record()
    record.run.run_id = run_id
    record.run.start_time.seconds = started
    for key, value in config.items():
        record.run.config.update.add(key=key, value_json=json.dumps(value))
    record.run.tags.extend(fields.pop("tags", ()))
    for name, value in fields.items():
        setattr(record.run, name, value)
    return record.SerializeToString()


def history_record(step: int, values: Mapping[str, Any]) -> bytes:
    record = Record()
    record.history.step.num = step
    _add_items(record.history.item, values)
    return record.SerializeToString()


def summary_record(values: Mapping[str, Any]) -> bytes:
    record = Record()
    _add_items(record.summary.update, values)
    return record.SerializeToString()


def console_record(text: str, error: bool = False) -> bytes:
    return Record(output_raw={"line": text, "output_type": 0 if error else 1}).SerializeToString()


def stats_record(seconds: int, values: Mapping[str, float]) -> bytes:
    record = Record()
    record.stats.timestamp.seconds = seconds
    _add_items(record.stats.item, values)
    return record.SerializeToString()


def environment_record(**fields: str) -> bytes:
    return Record(environment=fields).SerializeToString()


def alert_record(title: str, text: str = "") -> bytes:
    return Record(alert={"title": title, "text": text}).SerializeToString()


def exit_record(code: int = 0) -> bytes:
    return Record(exit={"exit_code": code}).SerializeToString()


def picture(path: str) -> dict[str, Any]:
    return {"_type": "image-file", "path": path, "format": "png", "width": 1, "height": 1}


def row_records(rows: Sequence[Mapping[str, Any]]) -> list[bytes]:
    """What W&B writes for rows, one an epoch: the row, then the summary."""
    records = []
    for number, row in enumerate(rows, 1):
        values = {"epoch": number, "_runtime": 0.5 * number, **row}
        records += [
            history_record(10 * number, values),
            summary_record({k: v for k, v in values.items() if not isinstance(v, dict)}),
        ]
    return records


def make_run(
    root: Path,
    run_id: str,
    config: Mapping[str, Any] | None = None,
    rows: Sequence[Mapping[str, Any]] = (),
    exit_code: int | None = 0,
    started: int = 1_700_000_000,
    more: Sequence[bytes] = (),
    **fields: Any,
) -> Path:
    """A finished run, or one that is running; its `.wandb` file."""
    folder = root / "wandb" / f"offline-run-20260101_{started % 1_000_000:06d}-{run_id}"
    (folder / "files" / "media" / "images").mkdir(parents=True)
    records = [run_record(run_id, config or {}, started, **fields), *row_records(rows), *more]
    if exit_code is not None:
        records.append(exit_record(exit_code))
    path = folder / f"run-{run_id}.wandb"
    path.write_bytes(encode_log(records)[0])
    return path


def append(path: Path, *records: bytes) -> None:
    """More records for a small file, as its writer would add them."""
    size = path.stat().st_size
    assert size + sum(map(len, records)) < 32_000, "this stays within the first block"
    with path.open("ab") as file:
        file.write(encode_log(list(records))[0][7:])


def damage(data: bytes, seed: int, first: int = 0, longest: int = 1) -> bytes:
    """The data with up to five stretches of flipped bytes from `first` on, of up to `longest` bytes each."""
    source, damaged = random.Random(seed), bytearray(data)
    for _ in range(source.randrange(1, 6)):
        start = source.randrange(first, len(data))
        length = min(source.choice([1, 1, 20, longest]), longest, len(data) - start)
        damaged[start : start + length] = bytes(255 - byte for byte in data[start : start + length])
    return bytes(damaged)


def read_to_end(log: WandbLogReader) -> list[bytes]:
    """The records that a file has for now."""
    records = log.read()
    while log.has_more:
        records += log.read()
    return records
