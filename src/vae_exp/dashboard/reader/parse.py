"""Plain records → events."""

import sys
from collections.abc import Callable, Mapping
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
    MachineState,
    RunInfo,
    SummaryChange,
    Value,
)
from vae_exp.dashboard.reader.flattening import flattened, split_pictures

_HIDDEN = "_wandb"
_GREATEST = int(sys.float_info.max)
_STRANGE = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)


class StrangeRecordError(Exception):
    """A record does not have the fields that its kind has."""


def event_of(record: Mapping[str, Any]) -> Event | None:
    """What a record says; None if nothing here looks at its kind.

    Args:
        record: `{"type": kind, kind: {…}}`, fields that have their default left out, keys of items flattened.

    Raises:
        StrangeRecordError: if it is not as its kind should be.
    """
    try:
        reader = _READERS.get(record["type"])
        return None if reader is None else reader(record[record["type"]])
    except _STRANGE as error:
        raise StrangeRecordError(f"{type(error).__name__}: {error}") from error


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
        config=_shown(body.get("config", {}).get("update")),
        host=str(body.get("host", "")),
    )


def _config(body: Mapping[str, Any]) -> ConfigChange:
    return ConfigChange(_shown(body.get("update")), tuple(body.get("remove", ())))


def _history(body: Mapping[str, Any]) -> HistoryRow:
    values, pictures = split_pictures(_shown(body.get("item")))
    step = body["step"].get("num", 0) if "step" in body else values.get("_step", 0)
    return HistoryRow(int(step), values, pictures)


def _summary(body: Mapping[str, Any]) -> SummaryChange:
    return SummaryChange(_shown(body.get("update")), tuple(body.get("remove", ())))


def _console(body: Mapping[str, Any]) -> ConsoleText:
    error = body.get("output_type", "STDERR") == "STDERR"
    return ConsoleText(str(body.get("line", "")), error, _seconds(body.get("timestamp")))


def _machine(body: Mapping[str, Any]) -> MachineState:
    items = _shown(body.get("item")).items()
    values = {key: float(value) for key, value in items if isinstance(value, int | float)}
    return MachineState(_seconds(body.get("timestamp")), values)


def _environment(body: Mapping[str, Any]) -> Environment:
    return Environment(flattened((key, value) for key, value in body.items() if key != "writer_id"))


def _alert(body: Mapping[str, Any]) -> Alert:
    return Alert(str(body.get("title", "")), str(body.get("text", "")), str(body.get("level", "")))


def _exit(body: Mapping[str, Any]) -> Exit:
    return Exit(int(body.get("exit_code", 0)), float(body.get("runtime", 0)))


_READERS: dict[str, Callable[[Mapping[str, Any]], Event]] = {
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


def _shown(items: Mapping[str, Any] | None) -> dict[str, Value]:
    flat = flattened((items or {}).items())
    return {key: _held(value) for key, value in flat.items() if key.partition(".")[0] != _HIDDEN}


def _held(value: Value) -> Value:
    """Whole numbers beyond what a float holds become the words for infinity."""
    if isinstance(value, int) and not -_GREATEST <= value <= _GREATEST:
        return "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: _held(each) for key, each in value.items()}
    return [_held(each) for each in value] if isinstance(value, list) else value


def _seconds(timestamp: str | None) -> float:
    """Nanoseconds are cut to microseconds, which is all that a datetime holds."""
    return 0.0 if timestamp is None else datetime.fromisoformat(timestamp).timestamp()
