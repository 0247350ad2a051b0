"""What a sweep looks like: a metric against one key, over two, over all; rate against distortion."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import combinations, cycle
from math import isnan
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vae_exp.configuration.resolvers import short_key
from vae_exp.errors import UserError
from vae_exp.metrics import higher_is_better
from vae_exp.storage.atomic_io import write_atomically
from vae_exp.sweep.aggregate import Group, Others, combined, default_keys, grouped, in_order, meaning, varying_keys
from vae_exp.sweep.job_records import Job
from vae_exp.sweep.key_axis import KeyAxis, turn_long
from vae_exp.sweep.metrics import chosen_metric

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe & Ito
_MARKERS = "osD^vP*"
_MOST_LINES = len(_COLOURS)
_MOST_NAMED = 3  # keys in the name of a setting in a legend
_MANY = 8  # settings, from which on a value can be far from the rest
_FORMATS = ("png", "svg")
_DPI = 150
_CAPTION = 80  # characters in a line of what stands above a figure


def draw(jobs: Sequence[Job], asked: str | None, folder: Path, others: Others = "mean") -> list[Path]:
    """Draw whatever the jobs allow, each figure as PNG and SVG.

    Args:
        jobs: Of a sweep.
        asked: The metric; None takes the one that says most.
        folder: Where the files go.
        others: How settings that differ in keys which a figure does not show are combined.

    Raises:
        UserError: if no finished job has the metric.
    """
    completed = [job for job in jobs if job.status == "completed"]
    if not completed:
        raise UserError("no job of the sweep has completed yet: there is nothing to draw.")
    metric = chosen_metric(completed, asked)
    groups = grouped(completed, default_keys(completed))
    written = []
    for name, figure in _figures(groups, metric, others):
        for kind in _FORMATS:
            path = folder / f"{name}.{kind}"
            write_atomically(path, partial(figure.savefig, format=kind, dpi=_DPI))
            written.append(path)
    return written


def _figures(groups: Sequence[Group], metric: str, others: Others) -> Iterator[tuple[str, Figure]]:
    having = sorted(
        (group for group in groups if metric in group.metrics),
        key=lambda group: [in_order(value) for value in group.keys.values()],
    )
    keys = varying_keys(having)
    for key in keys:
        yield f"{_plain(metric)}-against-{_plain(key)}", curve(having, metric, key, others)
    for across, up in combinations(keys, 2):
        over_both = heat_map if _fill_a_grid(having, across, up) else scatter
        yield f"{_plain(metric)}-over-{_plain(across)}-{_plain(up)}", over_both(having, metric, across, up, others)
    split = metric.partition("/")[0]
    both = [f"{split}/rate", f"{split}/distortion"]
    if all(name in group.metrics for group in having for name in both):
        yield "rate-distortion", rate_distortion(having, *both)
    if len(keys) > 1:
        yield f"{_plain(metric)}-parallel", parallel_coordinates(having, metric, keys)


def curve(settings: Sequence[Group], metric: str, key: str, others: Others = "mean") -> Figure:
    """A metric against one key, a line for each setting of the other keys; bands are standard errors over seeds.

    Values that are no numbers have no order: theirs are points, with bars. Where several settings share a value,
    a dotted line combines them.
    """
    figure, axes = _figure()
    below = KeyAxis(settings, key)
    rest = [each for each in varying_keys(settings) if each != key]
    lines: dict[str, list[Group]] = {}
    for setting in settings:
        lines.setdefault(_label(setting, rest), []).append(setting)
    scattered = 2 * len(lines) > len(settings) > _MOST_LINES  # as a search leaves them: hardly any share the rest
    many = scattered or len(lines) > _MOST_LINES
    colours, markers, alpha = (("0.6",), "o", 0.6) if many else (_COLOURS, _MARKERS, 1.0)
    values = np.array([setting.metrics[metric].mean for setting in settings])
    outside = _show_usual(axes, np.array([below.position(each.keys[key]) for each in settings]), values, "y")
    low, high = _usual(values)
    for (label, line), colour, marker in zip(lines.items(), cycle(colours), cycle(markers), strict=False):
        members = sorted(line, key=lambda setting: below.position(setting.keys[key]))
        x = [below.position(setting.keys[key]) for setting in members]
        mean = np.array([setting.metrics[metric].mean for setting in members])
        mean[(mean < low) | (mean > high)] = np.nan  # drawn at the edge
        error = np.nan_to_num([setting.metrics[metric].error for setting in members])
        style: dict[str, Any] = {"color": colour, "alpha": alpha, "marker": marker, "markersize": 5}
        if below.is_numeric and not scattered:
            axes.plot(x, mean, label=label, **style)
            axes.fill_between(x, mean - error, mean + error, color=colour, alpha=0.2, linewidth=0)
        else:
            axes.plot(x, mean, label=label, linestyle="none", **style)
            axes.errorbar(x, mean, yerr=error, fmt="none", color=colour, alpha=alpha, linewidth=1)
    whole = combined(settings, [key], others, metric)
    parts = [
        meaning(settings, [*settings[0].keys], others, metric),
        _errors_words(settings, metric, "bands" if below.is_numeric and not scattered else "bars"),
    ]
    if len(whole) < len(settings) and below.is_few:
        whole = sorted(whole, key=lambda group: below.position(group.keys[key]))
        x = [below.position(group.keys[key]) for group in whole]
        style_of_line, marker = (":", "") if below.is_numeric else ("none", "_")
        y = [group.metrics[metric].mean for group in whole]
        axes.plot(x, y, color="0.2", linestyle=style_of_line, marker=marker, markersize=30, zorder=4)
        parts.append(f"{'dotted' if below.is_numeric else 'dashes'}: {others} over {', '.join(rest)}")
    below.lay_along(axes, "x")
    axes.set_ylabel(metric)
    _caption(axes, [*parts, _beyond_words(outside)])
    if rest and not many:
        axes.legend(fontsize="small", frameon=False)
    return figure


def heat_map(settings: Sequence[Group], metric: str, across: str, up: str, others: Others = "mean") -> Figure:
    """A metric over two keys, settings that differ in others combined."""
    figure, axes = _figure()
    columns, rows = KeyAxis(settings, across).values, KeyAxis(settings, up).values
    cells = np.full((len(rows), len(columns)), np.nan)
    for group in combined(settings, [across, up], others, metric):
        cells[rows.index(group.keys[up]), columns.index(group.keys[across])] = group.metrics[metric].mean
    low, high = _usual(cells[~np.isnan(cells)])
    image = axes.imshow(cells, origin="lower", aspect="auto", vmin=low, vmax=high, cmap=_colours(metric))
    figure.colorbar(image, label=metric, extend=_beyond(cells, low, high))
    dark = (low + high) / 2
    for (row, column), value in np.ndenumerate(cells):
        if not isnan(value):
            shade = "white" if (value < dark) == higher_is_better(metric) else "black"
            text = f"{value:.2f}".replace("-", "−")
            axes.text(column, row, text, ha="center", va="center", color=shade, fontsize="small")
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    turn_long(axes, columns)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    _caption(axes, [meaning(settings, [across, up], others, metric)])
    return figure


def scatter(settings: Sequence[Group], metric: str, across: str, up: str, others: Others = "mean") -> Figure:
    """Two keys of many values, a coloured point for each pair, settings that differ in others combined."""
    figure, axes = _figure()
    below, beside = KeyAxis(settings, across), KeyAxis(settings, up)
    groups = combined(settings, [across, up], others, metric)
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
    _caption(axes, [meaning(settings, [across, up], others, metric)])
    return figure


def rate_distortion(settings: Sequence[Group], rate: str, distortion: str) -> Figure:
    """Distortion against rate (Alemi et al. 2018), with the lines on which their sum, −ELBO, is the same."""
    keys = varying_keys(settings)
    named = 1 < len(settings) <= 2 * _MOST_LINES and len(keys) <= _MOST_NAMED
    figure, axes = _figure(width=8.4 if named else 6.4)
    x = np.array([setting.metrics[rate].mean for setting in settings])
    y = np.array([setting.metrics[distortion].mean for setting in settings])
    axes.margins(0.12)
    outside = _show_usual(axes, x, y, "xy")
    for number, setting in enumerate(settings):
        if outside[number]:
            continue
        turn, colour = divmod(number, _MOST_LINES) if named else (0, 0)
        axes.errorbar(
            x[number], y[number],
            xerr=np.nan_to_num(setting.metrics[rate].error), yerr=np.nan_to_num(setting.metrics[distortion].error),
            label=_label(setting, keys), color=_COLOURS[colour], marker=_MARKERS[turn],
            linestyle="none", markersize=6, linewidth=1, zorder=3,
        )  # fmt: skip
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
    if named:
        figure.legend(loc="outside right upper", fontsize="small", frameon=False)
    axes.set_xlabel(f"{rate} (nats)")
    axes.set_ylabel(f"{distortion} (nats)")
    parts = [meaning(settings, keys, "mean", rate), _errors_words(settings, rate, "bars")]
    _caption(axes, [*parts, "grey lines: the same −ELBO", _beyond_words(outside)])
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
    _caption(axes, [f"a line for each setting: {meaning(groups, [*groups[0].keys], 'mean', metric)}"])
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


def _show_usual(axes: Axes, x: np.ndarray, y: np.ndarray, sides: str) -> np.ndarray:
    """Limit some axes to the usual range of their values; triangles at the edge mark the points beyond it.

    Returns:
        Which points those are.
    """
    shown = {"x": x, "y": y}
    markers = np.full(len(x), " ")
    for side in sides:
        values = shown[side]
        low, high = _usual(values)
        edge = 0.12 * ((high - low) or 1.0)
        markers[values < low], markers[values > high] = "<v"[side == "y"], ">^"[side == "y"]
        if low > values.min() or high < values.max():
            axes.set(**{f"{side}lim": (low - edge, high + edge)})
            shown[side] = np.clip(values, low - edge / 2, high + edge / 2)
    outside: np.ndarray = markers != " "
    for number in np.flatnonzero(outside):
        point = shown["x"][number], shown["y"][number]
        axes.plot(*point, marker=str(markers[number]), color="0.3", markersize=7, linestyle="none", zorder=4)
    return outside


def _errors_words(settings: Sequence[Group], metric: str, drawn_as: str) -> str:
    known = any(not isnan(setting.metrics[metric].error) for setting in settings)
    return f"{drawn_as}: standard errors over seeds" if known else ""


def _beyond_words(outside: np.ndarray) -> str:
    count = int(outside.sum())
    return f"triangles: {count} setting{'s' * (count > 1)} beyond the axis" if count else ""


def _caption(axes: Axes, parts: Sequence[str]) -> None:
    """Say above a figure what its numbers are."""
    text = "; ".join(filter(None, parts))
    axes.set_title("\n".join(wrap(text, _CAPTION)), fontsize="small", color="0.35")


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


def _label(group: Group, keys: Sequence[str]) -> str:
    return ", ".join(f"{short_key(key)}={group.keys[key]}" for key in keys)


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "._" else "-" for letter in name)
