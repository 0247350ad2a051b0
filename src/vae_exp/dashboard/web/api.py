"""The objects that the page is sent, served or embedded, as JSON can hold them."""

import json
from collections.abc import Sequence
from math import isfinite
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt

from vae_exp.dashboard.reader.records import Value
from vae_exp.dashboard.runs.history import Numbers, is_number
from vae_exp.dashboard.runs.run import Run
from vae_exp.dashboard.runs.store import RunStore
from vae_exp.metrics import decimals, higher_is_better, is_ranked, unit

MAX_POINTS = 2_000
X_AXES = {"step": None, "epoch": "epoch", "time": "_runtime"}
_MAX_CHARACTERS = 2_000
_MAX_VECTOR_LENGTH = 10_000
_DIGITS = 7
_ESCAPED = str.maketrans({x: f"\\u{ord(x):04x}" for x in "<>&\u2028\u2029"})
_MEDIA_FIELDS = ("._type", ".sha256", ".path", ".format", ".size")


def to_json(value: Any) -> str:
    """Return JSON that a script element can hold too: nothing in it ends one, and NaN does not occur.

    Lone surrogates, which no encoding can write, become question marks.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "replace").decode().translate(_ESCAPED)


def changes(store: RunStore, since: int, max_runs: int | None = None) -> dict[str, Any]:
    """Return the runs that have changed, as rows of the table.

    Args:
        store: Its lock must be held.
        since: The `cursor` of the last answer; 0 returns all.
        max_runs: The next answer has what is more, the least changed first; None returns all.
    """
    changed = sorted((run for run in store.runs.values() if run.version > since), key=lambda run: run.version)
    more = 0 if max_runs is None else max(0, len(changed) - max_runs)
    changed = changed[:max_runs]
    metrics = {key for run in changed for key in (*run.keys, *run.summary)}
    return {
        "store": store.identity,
        "cursor": changed[-1].version if more else store.version,
        "more": more,
        "waiting": store.pending,
        "notes": store.notes,
        "removed": store.removed_since(since),
        "runs": [serialize_row(run) for run in changed],
        "higher": sorted(filter(higher_is_better, metrics)),
        "ranked": sorted(filter(is_ranked, metrics)),
        "decimals": {key: count for key in sorted(metrics) if (count := decimals(key)) is not None},
        "units": {key: unit(key) for key in sorted(metrics) if unit(key)},
    }


def serialize_row(run: Run) -> dict[str, Any]:
    """Return what the table shows of a run."""
    info = run.info
    return {
        "key": run.key,
        "id": run.run_id,
        "name": _shorten(info.name or run.run_id),
        "label": _shorten(run.label or info.name or run.run_id),
        "overrides": {_shorten(key): list(map(_shorten, parts)) for key, parts in run.overrides.items()},
        "project": _shorten(info.project),
        "group": _shorten(info.group),
        "type": _shorten(info.job_type),
        "tags": [_shorten(tag) for tag in info.tags[:100]],
        "state": run.state,
        "attempt": run.attempt,
        "replaced": run.is_replaced,
        "code": run.exit_code,
        "started": run.started,
        "segments": len(run.segments),
        "version": run.version,
        "pictures": len(run.pictures),
        "lost": run.data_loss,
        "note": _shorten(run.note.text),
        "warnings": {_shorten(alert.title): _shorten(alert.text) for alert in run.alerts[-10:]},
        "config": {_shorten(key): _plain(value) for key, value in run.config.items()},
        "summary": {_shorten(k): _plain(x) for k, x in run.summary.items() if _is_in_table(k, x)},
        "keys": [_shorten(key) for key in run.keys],
        "gpu": run.gpu_keys,
    }


def serialize_details(run: Run, private: bool) -> dict[str, Any]:
    """Return what the page of a run shows beside its row; `notes` are those of W&B, `note` is ours.

    Args:
        run: The run.
        private: Whether console and environment are included, which name files and people.
    """
    return {
        "key": run.key,
        "version": run.version,
        "notes": _shorten(run.info.notes),
        "note": {"text": run.note.text, "version": run.note.version, "problem": run.note.problem},
        "console": [line._asdict() for line in run.console] if private else [],
        "alerts": [{"title": _shorten(x.title), "text": _shorten(x.text)} for x in run.alerts],
        "environment": {key: _plain(value) for key, value in run.environment.items()} if private else {},
        "machine": _serialize_machine(run),
        "vectors": _serialize_vectors(run),
        "lost": run.data_loss,
    }


def _serialize_vectors(run: Run) -> dict[str, list[float | None]]:
    """Return the last value of logged lists of numbers: the rate of each latent unit, for instance."""
    vectors: dict[str, list[float | None]] = {}
    for segment in run.segments:
        for key, value in segment.history.non_numeric.items():
            if isinstance(value, list) and value and all(map(is_number, value)):
                vectors[_shorten(key)] = [_number(float(x)) for x in value[:_MAX_VECTOR_LENGTH]]
    return vectors


def _serialize_machine(run: Run) -> list[dict[str, Any]]:
    """Return load, memory and so on over the seconds since the start, at most `MAX_POINTS` points each."""
    pieces: dict[str, list[tuple[Numbers, Numbers]]] = {}
    for segment in run.segments:
        for key, series in segment.machine.all_series("_timestamp").items():
            pieces.setdefault(key, []).append(series)
    pieces.pop("_timestamp", None)
    curves = []
    for key, parts in pieces.items():
        times, values = downsample(np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts]))
        x = (times - run.started).round(1).tolist()
        curves.append({"metric": _shorten(key), "x": x, "y": [_number(value) for value in values.tolist()]})
    return curves


def serialize_curves(runs: Sequence[Run], metrics: Sequence[str], x_axis: str) -> list[dict[str, Any]]:
    """Return curves of metrics and of GPUs, at most `MAX_POINTS` points each; null for values that are not finite.

    Args:
        runs: The runs.
        metrics: The metrics.
        x_axis: `step`, `epoch` or `time` (seconds of training).
    """
    curves = []
    for run in runs:
        gpu_keys = set(run.gpu_keys)
        for metric in metrics:
            series = run.gpu_series if metric in gpu_keys else run.series
            x, y = series(metric, X_AXES[x_axis])
            numbers = dict(zip("xy", downsample(x, y), strict=True))
            if len(y) > MAX_POINTS:  # extremes are no data to average over
                numbers["mean"] = stretch_means(y)
            lists = {name: [_number(value) for value in array.tolist()] for name, array in numbers.items()}
            curves.append({"run": run.key, "metric": metric, "version": run.version, **lists})
    return curves


def serialize_pictures(run: Run) -> list[dict[str, Any]]:
    """Return the images of a run; an address has the image's number, and a mark that changes with its file."""
    return [
        {
            "n": number,
            "name": _shorten(picture.key),
            "step": picture.step,
            "epoch": picture.epoch,
            "caption": _shorten(picture.caption),
            "mark": f"{crc32(f'{picture.folder} {picture.path}'.encode(errors='replace')):08x}",
        }
        for number, picture in enumerate(run.pictures)
    ]


def downsample(x: Numbers, y: Numbers, max_points: int = MAX_POINTS) -> tuple[Numbers, Numbers]:
    """Reduce a curve to `max_points`: of every stretch the least, the greatest and one that is not finite, if any.

    The first and the last point stay, and so do the extremes of the whole curve.

    Args:
        x: Abscissas `[N]`.
        y: Values `[N]`; NaN where the curve is broken.
        max_points: At least 8.
    """
    if len(y) <= max_points:
        return x, y
    selected = _selected_points(_stretches(y, max_points), len(y))
    return x[selected], y[selected]


def stretch_means(y: Numbers, max_points: int = MAX_POINTS) -> Numbers:
    """For each point that `downsample` selects, the mean of its stretch; NaN where the point is not finite."""
    stretches = _stretches(y, max_points)
    finite = np.where(np.isfinite(stretches), stretches, 0.0)
    means = finite.sum(axis=1) / np.isfinite(stretches).sum(axis=1).clip(min=1)
    selected = _selected_points(stretches, len(y))
    return np.where(np.isfinite(y[selected]), means[selected // stretches.shape[1]], np.nan)


def _stretches(y: Numbers, max_points: int) -> Numbers:
    """The values cut into stretches of one length, the last filled up with NaN."""
    width = -(-len(y) // ((max_points - 2) // 3))
    return np.pad(y, (0, -len(y) % width), constant_values=np.nan).reshape(-1, width)


def _selected_points(stretches: Numbers, count: int) -> npt.NDArray[np.int64]:
    is_finite = np.isfinite(stretches)
    within = [
        np.where(is_finite, stretches, np.inf).argmin(axis=1),
        np.where(is_finite, stretches, -np.inf).argmax(axis=1),
        (~is_finite).argmax(axis=1),
    ]
    first = stretches.shape[1] * np.arange(len(stretches))
    selected = np.unique(np.concatenate([[0, count - 1], *(first + index for index in within)]))
    return selected[selected < count]


def _is_in_table(key: str, value: Value) -> bool:
    """Whether a key of the summary is a number or a short text, not a description of media."""
    return not isinstance(value, list | dict) and not key.endswith(_MEDIA_FIELDS)


def _plain(value: Value) -> Value:
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, str):
        return _shorten(value)
    if isinstance(value, list | dict):
        text = json.dumps(value, ensure_ascii=False, default=str)
        is_plain = len(text) <= _MAX_CHARACTERS and "NaN" not in text and "Infinity" not in text
        return value if is_plain else _shorten(text)
    return value


def _number(value: float) -> float | int | None:
    if not isfinite(value):
        return None
    if value == int(value) and abs(value) < 2**53:
        return int(value)
    return float(f"{value:.{_DIGITS}g}")


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_CHARACTERS else text[:_MAX_CHARACTERS] + "…"
