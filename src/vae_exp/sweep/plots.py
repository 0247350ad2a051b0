"""What a sweep looks like: a metric against one key, over two, over all; rate against distortion."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import combinations, cycle
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vae_exp.errors import UserError
from vae_exp.run_directory import write_atomically
from vae_exp.sweep.grouping import Group, default_keys, grouped, in_order
from vae_exp.sweep.jobs import Job
from vae_exp.sweep.metrics import chosen_metric, higher_is_better

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe & Ito
_MARKERS = "osD^vP*"
_MOST_LINES = len(_COLOURS)
_FORMATS = ("png", "svg")
_DPI = 150


def draw(jobs: Sequence[Job], asked: str | None, folder: Path) -> list[Path]:
    """Draw whatever the jobs allow, each figure as PNG and SVG.

    Args:
        jobs: Of a sweep.
        asked: The metric; None takes the one that says most.
        folder: Where the files go.

    Raises:
        UserError: if no finished job has the metric.
    """
    completed = [job for job in jobs if job.status == "completed"]
    if not completed:
        raise UserError("no job of the sweep has completed yet: there is nothing to draw.")
    metric = chosen_metric(completed, asked)
    groups = grouped(completed, default_keys(completed))
    written = []
    for name, figure in _figures(groups, metric):
        for kind in _FORMATS:
            path = folder / f"{name}.{kind}"
            write_atomically(path, partial(figure.savefig, format=kind, dpi=_DPI))
            written.append(path)
    return written


def _figures(groups: Sequence[Group], metric: str) -> Iterator[tuple[str, Figure]]:
    having = sorted(
        (group for group in groups if metric in group.metrics),
        key=lambda group: [in_order(value) for value in group.keys.values()],
    )
    keys = [key for key in having[0].keys if len({group.keys[key] for group in having}) > 1]
    for key in keys:
        yield f"{_plain(metric)}-against-{_plain(key)}", curve(having, metric, key, [k for k in keys if k != key])
    for across, up in combinations(keys, 2):
        yield f"{_plain(metric)}-over-{_plain(across)}-{_plain(up)}", heat_map(having, metric, across, up)
    split = metric.partition("/")[0]
    both = [f"{split}/rate", f"{split}/distortion"]
    if all(name in group.metrics for group in having for name in both):
        yield "rate-distortion", rate_distortion(having, *both)
    if len(keys) > 1:
        yield f"{_plain(metric)}-parallel", parallel_coordinates(having, metric, keys)


def curve(groups: Sequence[Group], metric: str, key: str, others: Sequence[str]) -> Figure:
    """A metric against one key, a line for each setting of the others; bands are standard errors over seeds."""
    figure, axes = _figure()
    positions = _positions(groups, key)
    lines: dict[str, list[Group]] = {}
    for group in groups:
        lines.setdefault(_label(group, others), []).append(group)
    many = len(lines) > _MOST_LINES
    colours, alpha = (("0.6",), 0.6) if many else (_COLOURS, 1.0)
    for (label, found), colour, marker in zip(lines.items(), cycle(colours), cycle(_MARKERS), strict=False):
        members = sorted(found, key=lambda group: positions[group.keys[key]])
        x = [positions[group.keys[key]] for group in members]
        mean = np.array([group.metrics[metric].mean for group in members])
        error = np.nan_to_num([group.metrics[metric].error for group in members])
        axes.plot(x, mean, color=colour, alpha=alpha, marker=marker, markersize=5, label=label)
        axes.fill_between(x, mean - error, mean + error, color=colour, alpha=0.2, linewidth=0)
    _ticks(axes, groups, key, positions)
    axes.set_ylabel(metric)
    axes.set_title(_seeds(groups, metric), fontsize="small", color="0.35")
    if others and not many:
        axes.legend(fontsize="small", frameon=False)
    return figure


def heat_map(groups: Sequence[Group], metric: str, across: str, up: str) -> Figure:
    """The mean of a metric over two keys; over all others the best of them is shown."""
    figure, axes = _figure()
    columns, rows = _values(groups, across), _values(groups, up)
    best = np.full((len(rows), len(columns)), np.nan)
    pick = np.fmax if higher_is_better(metric) else np.fmin
    for group in groups:
        place = rows.index(group.keys[up]), columns.index(group.keys[across])
        best[place] = pick(best[place], group.metrics[metric].mean)
    image = axes.imshow(
        best, origin="lower", aspect="auto", cmap="viridis" if higher_is_better(metric) else "viridis_r"
    )
    figure.colorbar(image, label=metric)
    dark = np.nanmean([np.nanmin(best), np.nanmax(best)])
    for (row, column), value in np.ndenumerate(best):
        if not isnan(value):
            shade = "white" if (value < dark) == higher_is_better(metric) else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=shade, fontsize="small")
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    return figure


def rate_distortion(groups: Sequence[Group], rate: str, distortion: str) -> Figure:
    """Distortion against rate (Alemi et al. 2018), with the lines on which their sum, −ELBO, is the same."""
    figure, axes = _figure()
    x = np.array([group.metrics[rate].mean for group in groups])
    y = np.array([group.metrics[distortion].mean for group in groups])
    axes.errorbar(
        x, y,
        xerr=np.nan_to_num([group.metrics[rate].error for group in groups]),
        yerr=np.nan_to_num([group.metrics[distortion].error for group in groups]),
        fmt="o", color=_COLOURS[0], markersize=5, linewidth=1, zorder=3,
    )  # fmt: skip
    axes.margins(0.12)
    low, high = axes.get_xlim()
    bottom, top = axes.get_ylim()
    line = np.array([low, high])
    for total in MaxNLocator(8).tick_values(low + bottom, high + top):
        axes.plot(line, total - line, color="0.85", linewidth=0.8, zorder=1)
        if bottom < total - high < top:
            axes.annotate(
                f"{total:g}", (high, total - high), color="0.5", fontsize="x-small", ha="right", va="bottom"
            )
    axes.set_xlim(low, high)
    axes.set_ylim(bottom, top)
    if len(groups) <= 2 * _MOST_LINES:
        for group, across, up in zip(groups, x, y, strict=True):
            text = ", ".join(group.keys.values())
            axes.annotate(text, (across, up), textcoords="offset points", xytext=(5, 4), fontsize="x-small")
    axes.set_xlabel(f"{rate} (nats)")
    axes.set_ylabel(f"{distortion} (nats)")
    axes.set_title("grey lines: the same −ELBO", fontsize="small", color="0.35")
    return figure


def parallel_coordinates(groups: Sequence[Group], metric: str, keys: Sequence[str]) -> Figure:
    """A line per setting through its values; the colour, and the last axis, is the metric."""
    figure, axes = _figure(width=1.6 * (len(keys) + 1) + 2)
    values = np.array([group.metrics[metric].mean for group in groups])
    span = (values.max() - values.min()) or 1.0
    heights = (values - values.min()) / span
    colours = colormaps["viridis"](0.85 * (heights if higher_is_better(metric) else 1 - heights))
    for group, height, colour in zip(groups, heights, colours, strict=True):
        line = [_height(_values(groups, key), group.keys[key]) for key in keys]
        axes.plot(range(len(keys) + 1), [*line, height], color=colour, linewidth=1.4, alpha=0.85)
    for position, key in enumerate(keys):
        axes.axvline(position, color="0.3", linewidth=0.8)
        known = _values(groups, key)
        for value in known:
            _mark(axes, position, _height(known, value), value)
    axes.axvline(len(keys), color="0.3", linewidth=0.8)
    for part in np.linspace(0, 1, 5):
        _mark(axes, len(keys), part, f"{values.min() + part * span:.4g}")
    axes.set_xticks(range(len(keys) + 1), [*keys, metric])
    axes.set_yticks([])
    axes.set_ylim(-0.06, 1.06)
    axes.set_xlim(-0.1, len(keys) + 0.4)
    axes.spines[:].set_visible(False)
    return figure


def _mark(axes: Axes, position: float, height: float, text: str) -> None:
    """A value beside an axis, readable over the lines."""
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6}
    style: dict[str, Any] = {
        "xytext": (5, 0),
        "fontsize": "small",
        "va": "center",
        "bbox": box,
    }
    axes.annotate(text, (position, height), textcoords="offset points", **style)


def _figure(width: float = 6.4) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _values(groups: Sequence[Group], key: str) -> list[str]:
    """The values of a key, in their order."""
    return sorted({group.keys[key] for group in groups}, key=in_order)


def _positions(groups: Sequence[Group], key: str) -> dict[str, float]:
    """Where values stand on an axis: numbers where they belong, words one after the other."""
    found = _values(groups, key)
    numbers = [_number(value) for value in found]
    if any(number is None for number in numbers):
        return {value: float(place) for place, value in enumerate(found)}
    return {value: float(value) for value in found}


def _ticks(axes: Axes, groups: Sequence[Group], key: str, positions: dict[str, float]) -> None:
    found = _values(groups, key)
    axes.set_xlabel(key)
    numbers = [positions[value] for value in found]
    if min(numbers) > 0 and max(numbers) / min(numbers) >= 8 and _number(found[0]) is not None:
        axes.set_xscale("log")
    axes.set_xticks(numbers, found)
    axes.minorticks_off()


def _height(known: Sequence[str], value: str) -> float:
    return known.index(value) / (len(known) - 1) if len(known) > 1 else 0.5


def _label(group: Group, keys: Sequence[str]) -> str:
    return ", ".join(f"{key.rpartition('.')[2]}={group.keys[key]}" for key in keys)


def _seeds(groups: Sequence[Group], metric: str) -> str:
    counts = sorted({group.metrics[metric].count for group in groups})
    if counts == [1]:
        return "one job each"
    told = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"means of {told} jobs; bands are standard errors"


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "._" else "-" for letter in name)
