"""Figures of a sweep: a metric against one key, a heat map over two keys, rate against distortion."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import combinations, cycle
from math import isnan
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from vae_exp.configuration.naming import job_label
from vae_exp.errors import UserError
from vae_exp.metrics import higher_is_better, unit
from vae_exp.storage.atomic_io import write_atomically
from vae_exp.sweep.aggregate import (
    Others,
    SeedGroup,
    combine_settings,
    default_keys,
    group_seeds,
    meaning,
    natural_sort_key,
    partition,
    select_metric,
    varying_keys,
)
from vae_exp.sweep.job_records import JobRecord

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe & Ito
_MARKERS = "osD^vP*"
_MOST_LINES = len(_COLOURS)
_MOST_NAMED = 3  # keys in the name of a setting in a legend
_FORMATS = ("png", "svg")
_DPI = 150
_FEW = 8  # values that each get a tick label
_SHORT = 8  # characters of a number that was typed, not sampled
_WIDE = 8.0  # from this ratio of greatest to least on, an axis is logarithmic
_DECADES = 100.0  # from this ratio on, a logarithmic axis is marked at powers of ten alone
_APART = 0.04  # of an axis: labels nearer than that would overlap
_LONGEST = 60  # characters of all labels together that fit horizontally
_CAPTION = 80  # characters in a line of what stands above a figure


class ParameterAxis:
    """The axis of a swept key: numbers at their values, linear or logarithmic; words at equal distances.

    Args:
        groups: Whose values it shows.
        key: A config key that all of them have.
    """

    def __init__(self, groups: Sequence[SeedGroup], key: str) -> None:
        self.key = key
        self.values = sorted({group.keys[key] for group in groups}, key=natural_sort_key)
        try:
            self._positions = [float(value) for value in self.values]
            self.is_numeric = True
        except ValueError:
            self._positions = [float(index) for index in range(len(self.values))]
            self.is_numeric = False
        self.is_few = len(self.values) <= _FEW and not (
            self.is_numeric and any(len(value) > _SHORT for value in self.values)
        )
        least = min(self._positions)
        self._ratio = max(self._positions) / least if least > 0 else 0.0
        self.is_log = self.is_numeric and self._ratio >= _WIDE

    def position(self, value: str) -> float:
        """The coordinate of a value."""
        return self._positions[self.values.index(value)]

    def apply_to(self, axes: Axes) -> None:
        """Set scale, ticks and label of the horizontal axis."""
        axis = axes.xaxis
        axes.set_xlabel(self.key)
        if self.is_log:
            axes.set_xscale("log")
        axis.set_minor_locator(NullLocator())
        if not self.is_numeric or (self.is_few and self._labels_fit()):
            axes.set_xticks(self._positions, self.values)
        elif self.is_log:
            axis.set_major_locator(LogLocator(subs=(1.0,) if self._ratio >= _DECADES else (1.0, 2.0, 5.0)))
            axis.set_major_formatter("{x:g}")
        if not self.is_numeric:
            axes.set_xlim(-0.5, len(self.values) - 0.5)
            _rotate_long_labels(axes, self.values)

    def _labels_fit(self) -> bool:
        positions = np.log(self._positions) if self.is_log else np.array(self._positions)
        return bool((np.diff(positions) >= _APART * np.ptp(positions)).all())


def draw(jobs: Sequence[JobRecord], name: str | None, folder: Path, others: Others = "mean") -> list[Path]:
    """Draw whatever the jobs allow, each figure as PNG and SVG.

    Args:
        jobs: Of a sweep.
        name: The metric; None takes the most informative one.
        folder: Where the files go.
        others: How settings that differ in keys which a figure does not show are combined.

    Raises:
        UserError: if no finished job has the metric.
    """
    completed = [job for job in jobs if job.status == "completed"]
    if not completed:
        raise UserError("no job of the sweep has completed yet: there is nothing to draw.")
    metric = select_metric(completed, name)
    groups = group_seeds(completed, default_keys(completed))
    written = []
    for stem, figure in _figures(groups, metric, others):
        for kind in _FORMATS:
            path = folder / f"{stem}.{kind}"
            write_atomically(path, partial(figure.savefig, format=kind, dpi=_DPI))
            written.append(path)
    return written


def _figures(groups: Sequence[SeedGroup], metric: str, others: Others) -> Iterator[tuple[str, Figure]]:
    having = sorted(
        (group for group in groups if metric in group.metrics),
        key=lambda group: [natural_sort_key(value) for value in group.keys.values()],
    )
    keys = varying_keys(having)
    for key in keys:
        yield f"{_plain(metric)}-against-{_plain(key)}", curve(having, metric, key, others)
    for across, up in combinations(keys, 2):
        if _fill_a_grid(having, across, up):
            name = f"{_plain(metric)}-over-{_plain(across)}-{_plain(up)}"
            yield name, heat_map(having, metric, across, up, others)
    split = metric.partition("/")[0]
    both = [f"{split}/rate", f"{split}/distortion"]
    if all(name in group.metrics for group in having for name in both):
        yield f"{split}-rate-distortion", rate_distortion(having, *both)


def curve(settings: Sequence[SeedGroup], metric: str, key: str, others: Others = "mean") -> Figure:
    """A metric against one key, a line for each setting of the other keys; bands are standard errors over seeds.

    Values that are no numbers have no order: theirs are points, with bars. Where several settings share a value,
    a dotted line combines them.
    """
    figure, axes = _figure()
    below = ParameterAxis(settings, key)
    rest = [other for other in varying_keys(settings) if other != key]
    lines = partition(settings, lambda setting: job_label(setting.keys, rest) if rest else "")
    scattered = 2 * len(lines) > len(settings) > _MOST_LINES  # as a search leaves them: hardly any share the rest
    many = scattered or len(lines) > _MOST_LINES
    colours, markers, alpha = (("0.6",), "o", 0.6) if many else (_COLOURS, _MARKERS, 1.0)
    for (label, line), colour, marker in zip(lines.items(), cycle(colours), cycle(markers), strict=False):
        members = sorted(line, key=lambda setting: below.position(setting.keys[key]))
        x = [below.position(setting.keys[key]) for setting in members]
        mean = np.array([setting.metrics[metric].mean for setting in members])
        error = np.nan_to_num([setting.metrics[metric].error for setting in members])
        style: dict[str, Any] = {"color": colour, "alpha": alpha, "marker": marker, "markersize": 5}
        if below.is_numeric and not scattered:
            axes.plot(x, mean, label=label, **style)
            axes.fill_between(x, mean - error, mean + error, color=colour, alpha=0.2, linewidth=0)
        else:
            axes.plot(x, mean, label=label, linestyle="none", **style)
            axes.errorbar(x, mean, yerr=error, fmt="none", color=colour, alpha=alpha, linewidth=1)
    whole = combine_settings(settings, [key], others, metric)
    parts = [
        meaning(settings, [*settings[0].keys], others, metric),
        _error_caption(settings, metric, "bands" if below.is_numeric and not scattered else "bars"),
    ]
    if len(whole) < len(settings) and below.is_few:
        whole = sorted(whole, key=lambda group: below.position(group.keys[key]))
        x = [below.position(group.keys[key]) for group in whole]
        style_of_line, marker = (":", "") if below.is_numeric else ("none", "_")
        y = [group.metrics[metric].mean for group in whole]
        axes.plot(x, y, color="0.2", linestyle=style_of_line, marker=marker, markersize=30, zorder=4)
        parts.append(f"{'dotted' if below.is_numeric else 'dashes'}: {others} over {', '.join(rest)}")
    below.apply_to(axes)
    axes.set_ylabel(_with_unit(metric))
    _caption(axes, parts)
    if rest and not many:
        axes.legend(fontsize="small", frameon=False)
    return figure


def heat_map(settings: Sequence[SeedGroup], metric: str, across: str, up: str, others: Others = "mean") -> Figure:
    """A metric over two keys, settings that differ in others combined."""
    figure, axes = _figure()
    columns, rows = ParameterAxis(settings, across).values, ParameterAxis(settings, up).values
    cells = np.full((len(rows), len(columns)), np.nan)
    for group in combine_settings(settings, [across, up], others, metric):
        cells[rows.index(group.keys[up]), columns.index(group.keys[across])] = group.metrics[metric].mean
    colours = "viridis" if higher_is_better(metric) else "viridis_r"  # bright where the metric is good
    image = axes.imshow(cells, origin="lower", aspect="auto", cmap=colours)
    figure.colorbar(image, label=_with_unit(metric))
    dark = (np.nanmin(cells) + np.nanmax(cells)) / 2
    for (row, column), value in np.ndenumerate(cells):
        if not isnan(value):
            shade = "white" if (value < dark) == higher_is_better(metric) else "black"
            text = f"{value:.2f}".replace("-", "−")
            axes.text(column, row, text, ha="center", va="center", color=shade, fontsize="small")
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    _rotate_long_labels(axes, columns)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    _caption(axes, [meaning(settings, [across, up], others, metric)])
    return figure


def rate_distortion(settings: Sequence[SeedGroup], rate: str, distortion: str) -> Figure:
    """Distortion against rate (Alemi et al. 2018), with the lines on which their sum, −ELBO, is the same."""
    keys = varying_keys(settings)
    named = 1 < len(settings) <= 2 * _MOST_LINES and len(keys) <= _MOST_NAMED
    figure, axes = _figure(width=8.4 if named else 6.4)
    x = np.array([setting.metrics[rate].mean for setting in settings])
    y = np.array([setting.metrics[distortion].mean for setting in settings])
    axes.margins(0.12)
    for number, setting in enumerate(settings):
        turn, colour = divmod(number, _MOST_LINES) if named else (0, 0)
        axes.errorbar(
            x[number], y[number],
            xerr=np.nan_to_num(setting.metrics[rate].error), yerr=np.nan_to_num(setting.metrics[distortion].error),
            label=job_label(setting.keys, keys), color=_COLOURS[colour], marker=_MARKERS[turn],
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
    axes.set_xlabel(_with_unit(rate))
    axes.set_ylabel(_with_unit(distortion))
    parts = [meaning(settings, keys, "mean", rate), _error_caption(settings, rate, "bars")]
    _caption(axes, [*parts, "grey lines: the same −ELBO"])
    return figure


def _figure(width: float = 6.4) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _error_caption(settings: Sequence[SeedGroup], metric: str, drawn_as: str) -> str:
    has_errors = any(not isnan(setting.metrics[metric].error) for setting in settings)
    return f"{drawn_as}: standard errors over seeds" if has_errors else ""


def _caption(axes: Axes, parts: Sequence[str]) -> None:
    """Say above a figure what its numbers are."""
    text = "; ".join(filter(None, parts))
    axes.set_title("\n".join(wrap(text, _CAPTION)), fontsize="small", color="0.35")


def _fill_a_grid(groups: Sequence[SeedGroup], across: str, up: str) -> bool:
    """Whether two keys have few values each, and most pairs of them were tried."""
    axes = ParameterAxis(groups, across), ParameterAxis(groups, up)
    tried = {(group.keys[across], group.keys[up]) for group in groups}
    return all(axis.is_few for axis in axes) and 2 * len(tried) > len(axes[0].values) * len(axes[1].values)


def _with_unit(metric: str) -> str:
    return f"{metric} ({unit(metric)})" if unit(metric) else metric


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "._" else "-" for letter in name)


def _rotate_long_labels(axes: Axes, names: Sequence[str]) -> None:
    """Rotate the tick labels of the x axis if they would overlap."""
    if sum(len(name) for name in names) > _LONGEST:
        axes.tick_params(axis="x", labelrotation=90)
