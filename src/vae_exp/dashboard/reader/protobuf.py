"""W&B's records, as protobuf → plain objects, as W&B's own reader prints them."""

import json
from collections.abc import Iterable
from functools import cache
from math import isfinite, isnan
from typing import Any

from vae_exp.dashboard.reader.events import Value
from vae_exp.dashboard.reader.flattening import flattened

_ITEMS = {"history": "item", "stats": "item", "summary": "update", "config": "update"}
_OF_INTEREST = {*_ITEMS, "run", "output", "output_raw", "environment", "alert", "exit"}


_NOT_READABLE = "(not readable)"
_DEEPEST = 100
_scan = vars(json.JSONDecoder())["scan_once"]


class UnreadableRecordError(Exception):
    """The bytes are no record, or hold a value that is none."""


def plain_record(data: bytes) -> dict[str, Any] | None:
    """`{"type": kind, kind: {…}}`; None for kinds that nothing here looks at.

    Raises:
        UnreadableRecordError: if it cannot be read.
    """
    from google.protobuf.json_format import Error as JsonError
    from google.protobuf.message import DecodeError

    record = _record_class()()
    try:
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        return {"type": kind, kind: _body(kind, getattr(record, kind))} if kind in _OF_INTEREST else None
    except (DecodeError, JsonError, ValueError, RecursionError) as error:
        raise UnreadableRecordError(str(error)) from error


@cache
def _record_class() -> Any:
    from wandb.proto import wandb_internal_pb2

    return vars(wandb_internal_pb2)["Record"]


def _body(kind: str, message: Any) -> dict[str, Any]:
    items = {name: _flat(getattr(message, name)) for name in [_ITEMS.get(kind)] if name}
    if kind == "run":
        items = {"config": {"update": _flat(message.config.update)}}
        message.ClearField("config")
        message.ClearField("summary")
    elif items:
        message.ClearField(_ITEMS[kind])
    rest = _as_dict(message)
    if "remove" in rest:
        rest["remove"] = [_key(item) for item in message.remove]
    return rest | items


def _as_dict(message: Any) -> dict[str, Any]:
    from google.protobuf.json_format import Error, MessageToDict

    try:
        found: dict[str, Any] = MessageToDict(message, preserving_proto_field_name=True)
    except Error:  # a time that no calendar has
        for name in {"start_time", "timestamp"} & set(message.DESCRIPTOR.fields_by_name):
            message.ClearField(name)
        found = MessageToDict(message, preserving_proto_field_name=True)
    return found


def _flat(items: Iterable[Any]) -> dict[str, Value]:
    return flattened((_key(item), _readable(item)) for item in items)


def _readable(item: Any) -> Any:
    """The value of an item; one that cannot be read costs no other."""
    try:
        return _as_json(_value(item))
    except (ValueError, RecursionError):
        return _NOT_READABLE


def _as_json(value: Any, depth: int = 0) -> Any:
    """Numbers that JSON does not know become the words that W&B has for them."""
    if isinstance(value, float) and not isfinite(value):
        return "NaN" if isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if depth > _DEEPEST:
        raise ValueError("it is nested too deeply")
    if isinstance(value, dict):
        return {key: _as_json(each, depth + 1) for key, each in value.items()}
    return [_as_json(each, depth + 1) for each in value] if isinstance(value, list) else value


def _key(item: Any) -> str:
    return ".".join(getattr(item, "nested_key", ())) or str(item.key)


def _value(item: Any) -> Any:
    """The value of an item, whether it is written as JSON or in a field of its type."""
    if item.value_json:
        return _parsed(item.value_json)
    kind = item.WhichOneof("value") if "value" in item.DESCRIPTOR.oneofs_by_name else None
    if kind is None or kind == "none":
        return None
    return _parsed(item.json) if kind == "json" else getattr(item, kind)


def _parsed(text: str) -> Any:
    """As `json.loads`, without what that does around its scanner, which for a number takes ten times as long."""
    try:
        value, end = _scan(text, 0)
    except StopIteration:
        return json.loads(text)
    return value if end == len(text) else json.loads(text)
