"""What a sweep looks like: a metric against one key, over two, over all; rate against distortion."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import combinations, cycle
from math import isnan
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vae_exp.errors import UserError
from vae_exp.run_directory import write_atomically
from vae_exp.sweep.grouping import Group, default_keys, grouped, in_order
from vae_exp.sweep.jobs import Job
from vae_exp.sweep.key_axis import KeyAxis, turn_long
from vae_exp.sweep.metrics import chosen_metric, higher_is_better

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe & Ito
_MARKERS = "osD^vP*"
_MOST_LINES = len(_COLOURS)
_MOST_NAMED = 3  # keys in the name of a point
_MANY = 8  # settings, from which on a value can be far from the rest
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
    keys = _varying(having)
    for key in keys:
        yield f"{_plain(metric)}-against-{_plain(key)}", curve(having, metric, key, [k for k in keys if k != key])
    for across, up in combinations(keys, 2):
        over_both = heat_map if _fill_a_grid(having, across, up) else scatter
        yield f"{_plain(metric)}-over-{_plain(across)}-{_plain(up)}", over_both(having, metric, across, up)
    split = metric.partition("/")[0]
    both = [f"{split}/rate", f"{split}/distortion"]
    if all(name in group.metrics for group in having for name in both):
        yield "rate-distortion", rate_distortion(having, *both)
    if len(keys) > 1:
        yield f"{_plain(metric)}-parallel", parallel_coordinates(having, metric, keys)


def curve(groups: Sequence[Group], metric: str, key: str, others: Sequence[str]) -> Figure:
    """A metric against one key, a line for each setting of the others; bands are standard errors over seeds.

    Values that are no numbers have no order: theirs are points, with bars.
    """
    figure, axes = _figure()
    below = KeyAxis(groups, key)
    lines: dict[str, list[Group]] = {}
    for group in groups:
        lines.setdefault(_label(group, others), []).append(group)
    many = len(lines) > _MOST_LINES or 2 * len(lines) > len(groups) > _MOST_LINES
    colours, markers, alpha = (("0.6",), "o", 0.6) if many else (_COLOURS, _MARKERS, 1.0)
    for (label, found), colour, marker in zip(lines.items(), cycle(colours), cycle(markers), strict=False):
        members = sorted(found, key=lambda group: below.position(group.keys[key]))
        x = [below.position(group.keys[key]) for group in members]
        mean = np.array([group.metrics[metric].mean for group in members])
        error = np.nan_to_num([group.metrics[metric].error for group in members])
        style: dict[str, Any] = {"color": colour, "alpha": alpha, "marker": marker, "markersize": 5}
        if below.is_numeric:
            axes.plot(x, mean, label=label, **style)
            axes.fill_between(x, mean - error, mean + error, color=colour, alpha=0.2, linewidth=0)
        else:
            axes.plot(x, mean, label=label, linestyle="none", **style)
            axes.errorbar(x, mean, yerr=error, fmt="none", color=colour, alpha=alpha, linewidth=1)
    below.lay_along(axes, "x")
    axes.set_ylabel(metric)
    told = [_seeds(groups, metric, "bands" if below.is_numeric else "bars")]
    values = np.array([group.metrics[metric].mean for group in groups])
    if outside := int(_show_usual(axes, "y", values).sum()):
        told.append(f"{outside} far below or above")
    axes.set_title("; ".join(told), fontsize="small", color="0.35")
    if others and not many:
        axes.legend(fontsize="small", frameon=False)
    return figure


def heat_map(groups: Sequence[Group], metric: str, across: str, up: str) -> Figure:
    """The mean of a metric over two keys; over all others the best of them is shown."""
    figure, axes = _figure()
    columns, rows = KeyAxis(groups, across).values, KeyAxis(groups, up).values
    best = np.full((len(rows), len(columns)), np.nan)
    pick = np.fmax if higher_is_better(metric) else np.fmin
    for group in groups:
        place = rows.index(group.keys[up]), columns.index(group.keys[across])
        best[place] = pick(best[place], group.metrics[metric].mean)
    low, high = _usual([group.metrics[metric].mean for group in groups])
    image = axes.imshow(best, origin="lower", aspect="auto", vmin=low, vmax=high, cmap=_colours(metric))
    figure.colorbar(image, label=metric, extend=_beyond(best, low, high))
    dark = (low + high) / 2
    for (row, column), value in np.ndenumerate(best):
        if not isnan(value):
            shade = "white" if (value < dark) == higher_is_better(metric) else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=shade, fontsize="small")
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    turn_long(axes, columns)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    return figure


def scatter(groups: Sequence[Group], metric: str, across: str, up: str) -> Figure:
    """Two keys of many values, a point for each setting; the colour is the metric."""
    figure, axes = _figure()
    below, beside = KeyAxis(groups, across), KeyAxis(groups, up)
    values = np.array([group.metrics[metric].mean for group in groups])
    low, high = _usual(values)
    points = axes.scatter(
        [below.position(group.keys[across]) for group in groups],
        [beside.position(group.keys[up]) for group in groups],
        c=values,
        vmin=low,
        vmax=high,
        cmap=_colours(metric),
        edgecolors="0.3",
        linewidths=0.5,
    )
    figure.colorbar(points, label=metric, extend=_beyond(values, low, high))
    below.lay_along(axes, "x")
    beside.lay_along(axes, "y")
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
    outside = int((_show_usual(axes, "x", x) | _show_usual(axes, "y", y)).sum())
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
    keys = _varying(groups)
    if len(groups) <= 2 * _MOST_LINES and len(keys) <= _MOST_NAMED:
        # Above and below by turns: neighbours would cover each other.
        for turn, place in enumerate(np.argsort(x)):
            text = ", ".join(groups[place].keys[key] for key in keys)
            offset = (5, -9 if turn % 2 else 4)
            axes.annotate(
                text, (x[place], y[place]), textcoords="offset points", xytext=offset, fontsize="x-small"
            )
    axes.set_xlabel(f"{rate} (nats)")
    axes.set_ylabel(f"{distortion} (nats)")
    told = f"; {outside} far outside" if outside else ""
    axes.set_title(f"grey lines: the same −ELBO{told}", fontsize="small", color="0.35")
    return figure


def parallel_coordinates(groups: Sequence[Group], metric: str, keys: Sequence[str]) -> Figure:
    """A line per setting through its values; the colour, and the last axis, is the metric."""
    figure, axes = _figure(width=1.6 * (len(keys) + 1) + 2)
    values = np.array([group.metrics[metric].mean for group in groups])
    low, high = _usual(values)
    span = (high - low) or 1.0
    heights = np.clip((values - low) / span, 0, 1)
    colours = colormaps["viridis"](0.85 * (heights if higher_is_better(metric) else 1 - heights))
    scales = [KeyAxis(groups, key) for key in keys]
    for group, height, colour in zip(groups, heights, colours, strict=True):
        line = [scale.height(group.keys[scale.key]) for scale in scales]
        axes.plot(range(len(keys) + 1), [*line, height], color=colour, linewidth=1.4, alpha=0.85)
    for position, scale in enumerate(scales):
        axes.axvline(position, color="0.3", linewidth=0.8)
        for place, text in scale.marks():
            _mark(axes, position, place, text)
    axes.axvline(len(keys), color="0.3", linewidth=0.8)
    for part in np.linspace(0, 1, 5):
        _mark(axes, len(keys), part, f"{low + part * span:.4g}")
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


def _usual(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """The range of some values without those far from the rest (Tukey's outer fences), which would hide it."""
    low, high = float(np.min(values)), float(np.max(values))
    if len(values) < _MANY:
        return low, high
    quarter, three_quarters = np.quantile(values, [0.25, 0.75])
    reach = 3 * (three_quarters - quarter)
    inside = [value for value in values if quarter - reach <= value <= three_quarters + reach]
    return float(min(inside)), float(max(inside))


def _show_usual(axes: Axes, side: Literal["x", "y"], values: np.ndarray) -> np.ndarray:
    """Give an axis the usual range of its values, if there are others; which those are is returned."""
    low, high = _usual(values)
    outside: np.ndarray = (values < low) | (values > high)
    if outside.any():
        edge = 0.12 * ((high - low) or 1.0)
        axes.set(**{f"{side}lim": (low - edge, high + edge)})
    return outside


def _beyond(values: np.ndarray, low: float, high: float) -> str:
    """At which ends of a colour bar there are values beyond it."""
    below, above = bool((values < low).any()), bool((values > high).any())
    return "both" if below and above else "min" if below else "max" if above else "neither"


def _colours(metric: str) -> str:
    """A map of colours, bright where the metric is good."""
    return "viridis" if higher_is_better(metric) else "viridis_r"


def _fill_a_grid(groups: Sequence[Group], across: str, up: str) -> bool:
    """Whether two keys have few values each, and most pairs of them were tried."""
    axes = KeyAxis(groups, across), KeyAxis(groups, up)
    tried = {(group.keys[across], group.keys[up]) for group in groups}
    return all(axis.is_few for axis in axes) and 2 * len(tried) > len(axes[0].values) * len(axes[1].values)


def _varying(groups: Sequence[Group]) -> list[str]:
    """Keys in which settings differ."""
    return [key for key in groups[0].keys if len({group.keys[key] for group in groups}) > 1]


def _label(group: Group, keys: Sequence[str]) -> str:
    return ", ".join(f"{key.rpartition('.')[2]}={group.keys[key]}" for key in keys)


def _seeds(groups: Sequence[Group], metric: str, drawn_as: str) -> str:
    counts = sorted({group.metrics[metric].count for group in groups})
    if counts == [1]:
        return "one job each"
    told = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"means of {told} jobs; {drawn_as} are standard errors"


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "._" else "-" for letter in name)
