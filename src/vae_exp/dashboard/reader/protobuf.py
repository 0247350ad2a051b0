"""W&B's protobuf records → plain objects, as W&B's own reader prints them."""

import json
from collections.abc import Iterable
from functools import cache
from math import isfinite, isnan
from typing import Any

from vae_exp.dashboard.reader.events import Value
from vae_exp.dashboard.reader.parse import InvalidRecordError, flatten

_ITEMS = {"history": "item", "stats": "item", "summary": "update", "config": "update"}
_KINDS = {*_ITEMS, "run", "output", "output_raw", "environment", "alert", "exit"}
_NOT_READABLE = "(not readable)"
_MAX_DEPTH = 100
_decode = json.JSONDecoder().raw_decode  # json.loads takes twice as long for a number


def decode_record(data: bytes) -> dict[str, Any] | None:
    """Return `{"type": kind, kind: {…}}`; None for kinds that the dashboard does not use.

    Raises:
        InvalidRecordError: if it cannot be decoded.
    """
    from google.protobuf.json_format import Error as JsonError
    from google.protobuf.message import DecodeError

    record = _record_class()()
    try:
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        return {"type": kind, kind: _body(kind, getattr(record, kind))} if kind in _KINDS else None
    except (DecodeError, JsonError, ValueError, RecursionError) as error:
        raise InvalidRecordError(str(error)) from error


@cache
def _record_class() -> Any:
    from wandb.proto import wandb_internal_pb2

    return vars(wandb_internal_pb2)["Record"]


def _body(kind: str, message: Any) -> dict[str, Any]:
    items: dict[str, Any] = {}
    if kind == "run":
        items = {"config": {"update": _flat(message.config.update)}}
        message.ClearField("config")
        message.ClearField("summary")
    elif kind in _ITEMS:
        items = {_ITEMS[kind]: _flat(getattr(message, _ITEMS[kind]))}
        message.ClearField(_ITEMS[kind])
    rest = _to_dict(message)
    if "remove" in rest:
        rest["remove"] = [_key(item) for item in message.remove]
    return rest | items


def _to_dict(message: Any) -> dict[str, Any]:
    from google.protobuf.json_format import Error, MessageToDict

    try:
        return dict(MessageToDict(message, preserving_proto_field_name=True))
    except Error:  # a time that no calendar has
        for name in {"start_time", "timestamp"} & set(message.DESCRIPTOR.fields_by_name):
            message.ClearField(name)
        return dict(MessageToDict(message, preserving_proto_field_name=True))


def _flat(items: Iterable[Any]) -> dict[str, Value]:
    return flatten((_key(item), _readable_value(item)) for item in items)


def _key(item: Any) -> str:
    return ".".join(getattr(item, "nested_key", ())) or str(item.key)


def _readable_value(item: Any) -> Any:
    """Return the value of an item; one that cannot be read affects no other."""
    try:
        return _as_json(_value(item))
    except (ValueError, RecursionError):
        return _NOT_READABLE


def _value(item: Any) -> Any:
    """Return the value of an item, whether it is stored as JSON or in a typed field."""
    if item.value_json:
        return _parse_json(item.value_json)
    kind = item.WhichOneof("value") if "value" in item.DESCRIPTOR.oneofs_by_name else None
    if kind is None or kind == "none":
        return None
    return _parse_json(item.json) if kind == "json" else getattr(item, kind)


def _parse_json(text: str) -> Any:
    text = text.strip()
    value, end = _decode(text)
    return value if end == len(text) else json.loads(text)


def _as_json(value: Any, depth: int = 0) -> Any:
    """Replace numbers that JSON does not have by W&B's words for them."""
    if isinstance(value, float) and not isfinite(value):
        return "NaN" if isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if depth > _MAX_DEPTH:
        raise ValueError("it is nested too deeply")
    if isinstance(value, dict):
        return {key: _as_json(x, depth + 1) for key, x in value.items()}
    return [_as_json(x, depth + 1) for x in value] if isinstance(value, list) else value
