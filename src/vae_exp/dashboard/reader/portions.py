"""Portions of `.wandb` files as plain records; most are rows of numbers and summaries, which are decoded quickly.

W&B's classes make an object of every item, which takes three times as long as all the rest. Here a schema leaves
items as bytes: a key, which repeats from row to row and is decoded once, and a value, which is mostly a number.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

from vae_exp.dashboard.reader.records import Record, decode_item, decode_record, is_hidden
from vae_exp.metrics import current_metric

_VALUE_JSON = b"\x82\x01"  # the tag of the field 16, a text
_MAX_ROWS = 10_000
_BYTES, _MESSAGE, _INT64 = 12, 11, 3  # types of fields


def decode_records(portion: Sequence[bytes]) -> tuple[list[Record], int]:
    """Return the records that the dashboard uses, and how many could not be decoded.

    The body of a history record is `{"step": …, "keys": …, "numbers": …}`, with current names of metrics, where
    all its values are numbers. The last record is a summary of the last values, unless a later one removes keys.
    """
    records: list[Record] = []
    summary = _Summary()
    invalid = 0
    parse = _record_class().FromString
    for data in portion:
        try:
            record = parse(data)
            has_summary = record.HasField("summary")
            if has_summary and not record.summary.remove:
                summary.append(list(record.summary.update), has_objects=b"}" in data)
                continue
            if has_summary:
                invalid += summary.move_to(records)
            body = _numeric_row(record.history) if record.HasField("history") else None
            decoded = {"type": "history", "history": body} if body else decode_record(data)
        except Exception:  # whatever protobuf raises for bytes that are no record
            invalid += 1
        else:
            records += [decoded] if decoded else []
    return records, invalid + summary.move_to(records)


class _Summary:
    """The last items of successive summaries by their encoded keys, in the order of their values."""

    def __init__(self) -> None:
        self._items: dict[bytes, bytes] = {}
        self._keys: list[bytes] = []  # of the items to come
        self._last: list[bytes] = []
        self._has_objects = False  # whose keys add up

    def append(self, items: list[bytes], has_objects: bool) -> None:
        keys = [item.partition(_VALUE_JSON)[0] for item in items]
        if keys != self._keys or self._has_objects:
            self._merge()
        self._keys, self._last, self._has_objects = keys, items, has_objects

    def _merge(self) -> None:
        for key, item in zip(self._keys, self._last, strict=True):
            unique = item if item[-1:] == b"}" else key
            self._items.pop(unique, None)
            self._items[unique] = item
        self._keys, self._last = [], []

    def move_to(self, records: list[Record]) -> int:
        """Append a record with the items, of which none are left; return how many could not be decoded."""
        self._merge()
        update, invalid = {}, 0
        for item in self._items.values():
            try:
                key, value = decode_item("SummaryItem", item)
            except Exception:
                invalid += 1
            else:
                update[key] = value
        if self._items:
            records.append({"type": "summary", "summary": {"update": update}})
            self._items.clear()
        return invalid


def _numeric_row(history: Any) -> Record | None:
    """Return a row of numbers; None if it has any other value."""
    items = [item.partition(_VALUE_JSON) for item in history.item]
    try:
        keys = _row_keys[tuple([key for key, _, _ in items])]
        numbers = [float(value[1:]) for _, _, value in items if value[0] == len(value) - 1]
        if len(numbers) < len(keys):
            return None
        if history.HasField("step"):
            step = history.step.num
        else:
            step = int(numbers[keys.index("_step")]) if "_step" in keys else 0
    except (IndexError, KeyError, ValueError, OverflowError):
        return None
    return {"step": step, "keys": keys, "numbers": numbers}


class _RowKeys(dict[tuple[bytes, ...], tuple[str, ...]]):
    """Names of metrics by the encoded keys of a row; rows with W&B's own keys or those of media are missing."""

    def __missing__(self, encoded: tuple[bytes, ...]) -> tuple[str, ...]:
        items = [decode_item("HistoryItem", key) for key in encoded]
        keys = tuple(current_metric(key) for key, _ in items)
        is_plain = len(set(keys)) == len(keys) and all(value is None for _, value in items)
        if not is_plain or any(is_hidden(key) or key.endswith("._type") for key, _ in items):
            raise KeyError(encoded)
        if len(self) >= _MAX_ROWS:
            self.clear()
        self[encoded] = keys
        return keys


_row_keys = _RowKeys()


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
