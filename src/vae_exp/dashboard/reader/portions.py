"""Portions of `.wandb` files as plain records; most are rows of numbers and summaries, which are decoded quickly.

W&B's classes make an object of every item, which takes three times as long as all the rest. Here a schema leaves items
as bytes: a key, which repeats from row to row and is decoded once, and a value, which is mostly a number.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

from vae_exp.dashboard.reader.records import Record, decode_item, decode_record, is_hidden
from vae_exp.metrics import current_metric

_VALUE_JSON = b"\x82\x01"  # the tag of the field 16, a text
_MAX_KEYS = 100_000
_BYTES, _MESSAGE, _INT64 = 12, 11, 3  # types of fields


def decode_records(portion: Sequence[bytes]) -> tuple[list[Record], int]:
    """Return the records that the dashboard uses, and how many could not be decoded.

    The body of a history record is `{"step": …, "numbers": {…}}`, with current names of metrics, where all its values
    are numbers. The last record is a summary of the last values, unless keys are removed from the summary.
    """
    records: list[Record] = []
    summary: dict[bytes, bytes] = {}
    invalid = 0
    parse = _record_class().FromString
    for data in portion:
        try:
            record = parse(data)
            if record.HasField("summary") and not record.summary.remove:
                for item in record.summary.update:
                    key = item if item[-1:] == b"}" else item.partition(_VALUE_JSON)[0]  # objects add up
                    summary.pop(key, None)
                    summary[key] = item
                continue
            if record.HasField("summary"):
                invalid += _append_summary(summary, records)
            body = _numeric_row(record.history) if record.HasField("history") else None
            decoded = {"type": "history", "history": body} if body else decode_record(data)
        except Exception:  # whatever protobuf raises for bytes that are no record
            invalid += 1
        else:
            records += [decoded] if decoded else []
    return records, invalid + _append_summary(summary, records)


def _append_summary(items: dict[bytes, bytes], records: list[Record]) -> int:
    """Append a record with these items, of which none are left; returns how many could not be decoded."""
    update, invalid = {}, 0
    for item in items.values():
        try:
            key, value = decode_item("SummaryItem", item)
        except Exception:
            invalid += 1
        else:
            update[key] = value
    if items:
        records.append({"type": "summary", "summary": {"update": update}})
        items.clear()
    return invalid


def _numeric_row(history: Any) -> Record | None:
    """Return a row of numbers; None if it has any other value."""
    numbers: dict[str, float] = {}
    try:
        for item in history.item:
            key, _, value = item.partition(_VALUE_JSON)
            if value[0] != len(value) - 1:
                return None
            numbers[_names[key]] = float(value[1:])
        step = history.step.num if history.HasField("step") else int(numbers.get("_step", 0))
    except (IndexError, KeyError, ValueError, OverflowError):
        return None
    return {"step": step, "numbers": numbers}


class _Names(dict[bytes, str]):
    """Names of metrics by the encoded key of an item; those of media and of W&B itself are missing."""

    def __missing__(self, encoded: bytes) -> str:
        name, value = decode_item("HistoryItem", encoded)
        if value is not None or is_hidden(name) or name.endswith("._type"):
            raise KeyError(encoded)
        if len(self) >= _MAX_KEYS:
            self.clear()
        self[encoded] = current_metric(name)
        return self[encoded]


_names = _Names()


@cache
def _record_class() -> Any:
    """The message of a record whose items are bytes; other kinds of records are unknown fields of it."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="vae_exp_records.proto", package="vae_exp", syntax="proto3")
    messages: dict[str, dict[str, tuple[int, int]]] = {
        "Step": {"num": (1, _INT64)},
        "History": {"item": (1, _BYTES), "step": (2, _MESSAGE)},
        "Summary": {"update": (1, _BYTES), "remove": (2, _BYTES)},
        "Record": {"history": (2, _MESSAGE), "summary": (3, _MESSAGE)},
    }
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            type_name = f".vae_exp.{field.capitalize()}" if kind == _MESSAGE else None
            label = 3 if kind == _BYTES else 1  # repeated or optional
            message.field.add(name=field, number=number, type=kind, type_name=type_name, label=label)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("vae_exp.Record"))
