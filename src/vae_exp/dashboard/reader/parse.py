"""Plain records → events: nested keys flattened, images apart from values."""

import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from vae_exp.dashboard.reader.events import (
    Alert,
    ConfigChange,
    ConsoleText,
    Environment,
    Event,
    Exit,
    HistoryRow,
    ImageReference,
    MachineState,
    RunInfo,
    SummaryChange,
    Value,
)

_HIDDEN = "_wandb"
_MAX_INT = int(sys.float_info.max)
_IMAGE_TYPES = ("image-file", "images/separated")
_TYPE = "._type"
_MAX_DEPTH = 100
_PARSE_ERRORS = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)


class InvalidRecordError(Exception):
    """A record cannot be decoded, or does not have the fields that its kind has."""


def parse_event(record: Mapping[str, Any]) -> Event | None:
    """Return what a record says; None for kinds that the dashboard does not use.

    Args:
        record: `{"type": kind, kind: {…}}`, fields that have their default left out, keys of items flattened.

    Raises:
        InvalidRecordError: if it is not as its kind should be.
    """
    try:
        parse = _PARSERS.get(record["type"])
        return None if parse is None else parse(record[record["type"]])
    except _PARSE_ERRORS as error:
        raise InvalidRecordError(f"{type(error).__name__}: {error}") from error


def _run(body: Mapping[str, Any]) -> RunInfo:
    return RunInfo(
        run_id=str(body["run_id"]),
        name=str(body.get("display_name", "")),
        project=str(body.get("project", "")),
        group=str(body.get("run_group", "")),
        job_type=str(body.get("job_type", "")),
        tags=tuple(str(tag) for tag in body.get("tags", ())),
        notes=str(body.get("notes", "")),
        started=_seconds(body.get("start_time")),
        config=_visible(body.get("config", {}).get("update")),
        host=str(body.get("host", "")),
    )


def _config(body: Mapping[str, Any]) -> ConfigChange:
    return ConfigChange(_visible(body.get("update")), tuple(body.get("remove", ())))


def _history(body: Mapping[str, Any]) -> HistoryRow:
    values, pictures = _split_images(_visible(body.get("item")))
    step = body["step"].get("num", 0) if "step" in body else values.get("_step", 0)
    return HistoryRow(int(step), values, pictures)


def _summary(body: Mapping[str, Any]) -> SummaryChange:
    return SummaryChange(_visible(body.get("update")), tuple(body.get("remove", ())))


def _console(body: Mapping[str, Any]) -> ConsoleText:
    error = body.get("output_type", "STDERR") == "STDERR"
    return ConsoleText(str(body.get("line", "")), error, _seconds(body.get("timestamp")))


def _machine(body: Mapping[str, Any]) -> MachineState:
    items = _visible(body.get("item")).items()
    values = {key: float(value) for key, value in items if isinstance(value, int | float)}
    return MachineState(_seconds(body.get("timestamp")), values)


def _environment(body: Mapping[str, Any]) -> Environment:
    return Environment(flatten((key, value) for key, value in body.items() if key != "writer_id"))


def _alert(body: Mapping[str, Any]) -> Alert:
    return Alert(str(body.get("title", "")), str(body.get("text", "")), str(body.get("level", "")))


def _exit(body: Mapping[str, Any]) -> Exit:
    return Exit(int(body.get("exit_code", 0)), float(body.get("runtime", 0)))


_PARSERS: dict[str, Callable[[Mapping[str, Any]], Event]] = {
    "run": _run,
    "config": _config,
    "history": _history,
    "summary": _summary,
    "output": _console,
    "output_raw": _console,
    "stats": _machine,
    "environment": _environment,
    "alert": _alert,
    "exit": _exit,
}


def flatten(items: Iterable[tuple[str, Any]]) -> dict[str, Value]:
    """Join the keys of nested objects by dots; an empty object stays as it is."""
    flat: dict[str, Value] = {}
    for name, item in items:
        if not isinstance(item, dict):
            flat[name] = item
            continue
        pending = [(name, item)]
        while pending:
            key, value = pending.pop()
            if isinstance(value, dict) and value:
                pending.extend((f"{key}.{part}", inner) for part, inner in reversed(value.items()))
            else:
                flat[key] = value
    return flat


def _split_images(flat: Mapping[str, Value]) -> tuple[dict[str, Value], dict[str, tuple[ImageReference, ...]]]:
    """Separate plain values from image files; other media are left out. `key._type` says what an object is."""
    objects = {key.removesuffix(_TYPE): str(value) for key, value in flat.items() if key.endswith(_TYPE)}
    if not objects:
        return dict(flat), {}
    members: dict[str, dict[str, Value]] = {key: {} for key in objects}
    values: dict[str, Value] = {}
    for key, value in flat.items():
        owner = next((x for x in _ancestors(key) if x in members), None)
        if owner is None:
            values[key] = value
        else:
            members[owner][key[len(owner) + 1 :]] = value
    images = {key: _images(members[key]) for key, kind in objects.items() if kind in _IMAGE_TYPES}
    return values, {key: x for key, x in images.items() if x}


def _ancestors(key: str) -> Iterable[str]:
    end = key.find(".")
    for _ in range(_MAX_DEPTH):
        if end < 0:
            return
        yield key[:end]
        end = key.find(".", end + 1)


def _images(members: Mapping[str, Value]) -> tuple[ImageReference, ...]:
    paths, captions = members.get("filenames"), members.get("captions")
    if isinstance(paths, list):
        texts = [str(x) for x in captions] if isinstance(captions, list) else []
        padded = texts + [""] * len(paths)
        return tuple(ImageReference(str(path), text) for path, text in zip(paths, padded, strict=False))
    path = members.get("path")
    return (ImageReference(path, str(members.get("caption", ""))),) if isinstance(path, str) else ()


def _visible(items: Mapping[str, Any] | None) -> dict[str, Value]:
    flat = flatten((items or {}).items())
    return {key: _clip(value) for key, value in flat.items() if key.partition(".")[0] != _HIDDEN}


def _clip(value: Value) -> Value:
    """Replace integers beyond the range of a float by the words for infinity."""
    if isinstance(value, int) and not -_MAX_INT <= value <= _MAX_INT:
        return "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: _clip(x) for key, x in value.items()}
    return [_clip(x) for x in value] if isinstance(value, list) else value


def _seconds(timestamp: str | None) -> float:
    return 0.0 if timestamp is None else datetime.fromisoformat(timestamp).timestamp()
