"""Records of `.wandb` files as plain objects: from W&B's protobuf messages, or printed by `wandb leet`."""

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import cache
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from itertools import accumulate
from pathlib import Path
from typing import Any

Value = Any  # what JSON can hold: None, bool, int, float, str, and lists of these
Record = dict[str, Any]  # {"type": kind, kind: {…}}, fields that have their default left out

_ITEMS = {"history": "item", "stats": "item", "summary": "update", "config": "update"}
KINDS = frozenset({*_ITEMS, "run", "output", "output_raw", "environment", "alert", "exit"})
_HIDDEN = "_wandb"
_MESSAGES = "wandb.proto.wandb_internal_pb2"
_NOT_READABLE = "(not readable)"
_MAX_DEPTH = 100
_IMAGE_TYPES = ("image-file", "images/separated")
_TYPE = "._type"
_LEET_TIMEOUT_SECONDS = 60.0
_decode = json.JSONDecoder().raw_decode  # json.loads takes twice as long for a number


class LeetError(Exception):
    """W&B's own reader could not read the file either."""


def decode_record(data: bytes) -> Record | None:
    """Return a record; None for kinds that the dashboard does not use.

    Raises:
        Exception: whatever protobuf raises for bytes that are no record.
    """
    record = _message_classes()["Record"].FromString(data)
    kind = record.WhichOneof("record_type")
    return {"type": kind, kind: _body(kind, getattr(record, kind))} if kind in KINDS else None


def decode_item(message: str, data: bytes) -> tuple[str, Value]:
    """Return key and value of an item, `HistoryItem` or `SummaryItem`; raises what `decode_record` raises."""
    item = _message_classes()[message].FromString(data)
    return _key(item), _value(item)


@cache
def _message_classes() -> dict[str, Any]:
    """W&B's messages by name, without `import wandb`, which takes ten times as long."""
    if "wandb" in sys.modules:
        return vars(import_module(_MESSAGES))
    spec = find_spec("wandb")
    if spec is None:
        raise ModuleNotFoundError("the dashboard needs the package wandb", name="wandb")
    sys.modules["wandb"] = module_from_spec(spec)  # not executed
    try:
        return vars(import_module(_MESSAGES))
    finally:
        _forget_package("wandb")


def _forget_package(name: str) -> None:
    """Take a package out of the imported modules, which other threads may add to meanwhile."""
    for module in list(sys.modules):
        if module.partition(".")[0] == name:
            del sys.modules[module]


def _body(kind: str, message: Any) -> dict[str, Any]:
    items: dict[str, Any] = {}
    if kind == "run":
        items = {"config": {"update": _items(message.config.update)}}
        message.ClearField("config")
        message.ClearField("summary")
    elif kind in _ITEMS:
        items = {_ITEMS[kind]: _items(getattr(message, _ITEMS[kind]))}
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


def _items(items: Iterable[Any]) -> dict[str, Any]:
    return {_key(item): _value(item) for item in items}


def _key(item: Any) -> str:
    return sys.intern(".".join(getattr(item, "nested_key", ())) or str(item.key))


def _value(item: Any) -> Any:
    """Return a value stored as JSON or in a typed field; one that cannot be read affects no other."""
    kind = "value_json"
    if not item.value_json and "value" in item.DESCRIPTOR.oneofs_by_name:
        kind = item.WhichOneof("value") or "none"
    if kind not in ("value_json", "json"):
        return None if kind == "none" else getattr(item, kind)
    text = getattr(item, kind).strip()
    if not text:
        return None
    try:
        value, end = _decode(text)
    except (ValueError, RecursionError):
        return _NOT_READABLE
    return value if end == len(text) else _NOT_READABLE


def inspect_with_leet(path: Path) -> list[Record]:
    """Return all records of a file as `wandb leet inspect --json` prints them, keys of items joined by dots.

    Raises:
        LeetError: if it fails or takes too long.
    """
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
    try:
        process = subprocess.run(  # noqa: S603 - no shell, and the file is a separate argument
            command, capture_output=True, timeout=_LEET_TIMEOUT_SECONDS, stdin=subprocess.DEVNULL, check=False
        )
        if process.returncode != 0 and not process.stdout:
            message = process.stderr.decode(errors="replace").strip()
            raise LeetError(message or f"wandb leet ended with {process.returncode}")
        return [json.loads(line) for line in process.stdout.splitlines()]
    except (OSError, ValueError, RecursionError, subprocess.TimeoutExpired) as error:
        raise LeetError(str(error)) from error


def is_hidden(key: str) -> bool:
    """Whether a key is of W&B itself."""
    return key.partition(".")[0] == _HIDDEN


def values_of(items: Mapping[str, Any] | None) -> dict[str, Value]:
    """Return the values of items without W&B's own; keys of nested objects are joined by dots."""
    flat: dict[str, Value] = {}
    for key, item in (items or {}).items():
        if is_hidden(key):
            continue
        try:
            value = _to_json_value(item)
        except (ValueError, RecursionError):
            value = _NOT_READABLE
        if isinstance(value, dict):
            flat |= _flatten(key, value)
        else:
            flat[key] = value
    return flat


def _to_json_value(value: Any, depth: int = 0) -> Value:
    """Replace numbers that JSON or a float does not have by W&B's words for them."""
    if isinstance(value, int | float):
        if abs(value) <= sys.float_info.max:
            return value
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"  # noqa: PLR0124
    if depth > _MAX_DEPTH:
        raise ValueError("it is nested too deeply")
    if isinstance(value, dict):
        return {key: _to_json_value(x, depth + 1) for key, x in value.items()}
    return [_to_json_value(x, depth + 1) for x in value] if isinstance(value, list) else value


def _flatten(key: str, value: Value) -> dict[str, Value]:
    if not isinstance(value, dict) or not value:
        return {key: value}
    flat: dict[str, Value] = {}
    for part, inner in value.items():
        flat |= _flatten(sys.intern(f"{key}.{part}"), inner)
    return flat


def split_images(flat: Mapping[str, Value]) -> tuple[dict[str, Value], dict[str, list[tuple[str, str]]]]:
    """Separate plain values from image files; other media are left out. `key._type` says what an object is.

    Returns:
        Values by their key, and images as pairs of path and caption; paths are as the record has them: untrusted.
    """
    objects = {key.removesuffix(_TYPE): str(value) for key, value in flat.items() if key.endswith(_TYPE)}
    if not objects:
        return dict(flat), {}
    members: dict[str, dict[str, Value]] = {key: {} for key in objects}
    values: dict[str, Value] = {}
    for key, value in flat.items():
        ancestors = accumulate(key.split(".", _MAX_DEPTH)[:-1], "{}.{}".format)
        owner = next((x for x in ancestors if x in members), None)
        if owner is None:
            values[key] = value
        else:
            members[owner][key[len(owner) + 1 :]] = value
    return values, {key: _images(members[key]) for key, kind in objects.items() if kind in _IMAGE_TYPES}


def _images(members: Mapping[str, Value]) -> list[tuple[str, str]]:
    paths, captions = members.get("filenames"), members.get("captions")
    if isinstance(paths, list):
        texts = captions if isinstance(captions, list) else []
        return [(str(path), str(text)) for path, text in zip(paths, texts + [""] * len(paths), strict=False)]
    path = members.get("path")
    return [(path, str(members.get("caption", "")))] if isinstance(path, str) else []


def seconds_of(timestamp: str | None) -> float:
    """Return seconds since 1970; 0 for no time."""
    return 0.0 if timestamp is None else datetime.fromisoformat(timestamp).timestamp()
