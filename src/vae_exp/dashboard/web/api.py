"""What the page is given: plain objects that JSON can hold, whether they are served or embedded."""

import json
from collections.abc import Sequence
from math import isfinite
from typing import Any
from zlib import crc32

from vae_exp.dashboard.reader.events import ConsoleText, Value
from vae_exp.dashboard.runs.history import NOT_FINITE, Numbers
from vae_exp.dashboard.runs.run import Run
from vae_exp.dashboard.runs.store import Store
from vae_exp.dashboard.web.downsampling import downsampled
from vae_exp.sweep.metrics import higher_is_better

_MOST_CHARACTERS = 2_000
_DIGITS = 7
_MOST_CONSOLE_LINES = 2_000
ABSCISSAS = {"step": None, "epoch": "epoch", "time": "_runtime"}


def encoded(value: Any) -> str:
    """JSON that a script element can hold too: nothing in it ends one, and NaN does not occur.

    Lone surrogates, which no encoding can write, become question marks.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    text = text.encode("utf-8", "replace").decode()
    for character, escaped in (
        ("<", "\\u003c"),
        (">", "\\u003e"),
        ("&", "\\u0026"),
        ("\u2028", "\\u2028"),
        ("\u2029", "\\u2029"),
    ):
        text = text.replace(character, escaped)
    return text


def changes(store: Store, since: int) -> dict[str, Any]:
    """The runs that have changed, as rows of the table.

    Args:
        store: Under its lock.
        since: The `cursor` of the last answer; 0 asks for all.
    """
    changed = [run for run in store.runs.values() if run.version > since]
    metrics = {key for run in changed for key in run.keys}
    return {
        "store": store.identity,
        "cursor": store.version,
        "waiting": store.waiting,
        "notes": store.notes,
        "removed": store.removed_since(since),
        "runs": [row(run) for run in changed],
        "higher": sorted(key for key in metrics if higher_is_better(key)),
    }


def row(run: Run) -> dict[str, Any]:
    """What the table shows of a run."""
    info = run.info
    return {
        "key": run.key,
        "id": run.run_id,
        "name": _short(info.name or run.run_id),
        "project": _short(info.project),
        "group": _short(info.group),
        "type": _short(info.job_type),
        "tags": [_short(tag) for tag in info.tags[:100]],
        "state": run.state,
        "attempt": run.attempt,
        "replaced": run.is_replaced,
        "code": run.exit_code,
        "started": run.started,
        "segments": len(run.segments),
        "version": run.version,
        "pictures": len(run.pictures),
        "lost": run.lost,
        "warnings": list(dict.fromkeys(_short(each.title) for each in run.alerts))[:10],
        "config": {_short(key): _plain(value) for key, value in run.config.items()},
        "summary": {_short(key): _plain(value) for key, value in run.summary.items() if _is_shown(key, value)},
        "keys": [_short(key) for key in run.keys],
    }


def details(run: Run, private: bool) -> dict[str, Any]:
    """What the page of a run shows beside its row.

    Args:
        run: The run.
        private: Whether console and environment are shown, which name places and people.
    """
    console = run.console[-_MOST_CONSOLE_LINES:] if private else []
    return {
        "key": run.key,
        "version": run.version,
        "notes": _short(run.info.notes),
        "console": [_line(text) for text in console],
        "alerts": [{"title": _short(each.title), "text": _short(each.text)} for each in run.alerts],
        "environment": {key: _plain(value) for key, value in run.environment.items()} if private else {},
        "machine": machine(run),
        "vectors": vectors(run),
        "lost": run.lost,
    }


def vectors(run: Run) -> dict[str, list[float | None]]:
    """Lists of numbers that the run has logged, as they were last: the rate of each latent unit, for instance."""
    found: dict[str, list[float | None]] = {}
    for segment in run.segments:
        for key, value in segment.history.others.items():
            if isinstance(value, list) and value and all(_is_number(each) for each in value):
                found[_short(key)] = [_number(float(each)) for each in value[:10_000]]
    return found


def _is_number(value: Value) -> bool:
    return isinstance(value, int | float) or (isinstance(value, str) and value in NOT_FINITE)


def machine(run: Run) -> list[dict[str, Any]]:
    """Load, memory and so on over the time since the start, in seconds."""
    keys = dict.fromkeys(key for each in run.segments for key in each.machine.keys if key != "_timestamp")
    curves = []
    for key in keys:
        pieces = [each.machine.series(key, "_timestamp") for each in run.segments]
        x = [value - run.started for times, _ in pieces for value in times.tolist()]
        y = [value for _, values in pieces for value in values.tolist()]
        curves.append(
            {"metric": _short(key), "x": [round(each, 1) for each in x], "y": [_number(each) for each in y]}
        )
    return curves


def curves(runs: Sequence[Run], metrics: Sequence[str], abscissa: str) -> list[dict[str, Any]]:
    """Curves of metrics, at most 2,000 points each.

    Args:
        runs: Whose.
        metrics: Which.
        abscissa: `step`, `epoch` or `time` (seconds of training).
    """
    return [
        {
            "run": run.key,
            "metric": metric,
            "version": run.version,
            **curve(*run.series(metric, ABSCISSAS[abscissa])),
        }
        for metric in metrics
        for run in runs
    ]


def curve(x: Numbers, y: Numbers) -> dict[str, list[float | None]]:
    """Two arrays of as many numbers; null where there is none."""
    x, y = downsampled(x, y)
    return {"x": [_number(each) for each in x.tolist()], "y": [_number(each) for each in y.tolist()]}


def pictures(run: Run) -> list[dict[str, Any]]:
    """The images of a run; each is asked for by its number, and has a mark that changes with its file."""
    return [
        {
            "n": number,
            "name": _short(each.key),
            "step": each.step,
            "epoch": each.epoch,
            "caption": _short(each.caption),
            "mark": f"{crc32(f'{each.folder} {each.path}'.encode(errors='replace')):08x}",
        }
        for number, each in enumerate(run.pictures)
    ]


def _line(text: ConsoleText) -> dict[str, Any]:
    return {"text": text.text, "error": text.error}


def _is_shown(key: str, value: Value) -> bool:
    """Numbers and short texts; what describes media is not for the table."""
    return not isinstance(value, list | dict) and not key.endswith(
        ("._type", ".sha256", ".path", ".format", ".size")
    )


def _plain(value: Value) -> Value:
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, str):
        return _short(value)
    if isinstance(value, list | dict):
        text = json.dumps(value, ensure_ascii=False, default=str)
        return (
            value
            if len(text) <= _MOST_CHARACTERS and "NaN" not in text and "Infinity" not in text
            else _short(text)
        )
    return value


def _number(value: float) -> float | int | None:
    if not isfinite(value):
        return None
    if value == int(value) and abs(value) < 2**53:
        return int(value)
    return float(f"{value:.{_DIGITS}g}")


def _short(text: str) -> str:
    """Long texts are cut."""
    return text if len(text) <= _MOST_CHARACTERS else text[:_MOST_CHARACTERS] + "…"
