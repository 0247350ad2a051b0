"""Arrays → matplotlib figures, without a window or global state."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.figure import Figure

from vae_exp.storage.pictures import DPI

Array = npt.NDArray[Any]
_LEGEND_LETTERS = 24
_SCATTER_INCHES = (4.0, 4.1)
_SCATTER_ORIGIN = (0.82, 0.48)  # inches from the lower left corner: ticks and names of the axes


def plot_latent_scatter(
    means: Array, labels: Array | None, axis_names: tuple[str, str], class_names: Sequence[str] | None = None
) -> Figure:
    """Posterior means of images in two latent units, coloured by label.

    Args:
        means: `[N, 2]`, or `[N, 1]`, which is drawn against zero.
        labels: `[N]` integers, or None.
        axis_names: What the axes show.
        class_names: Of the labels, in their order; None where they have no names.
    """
    (left, below), (width, height) = _SCATTER_ORIGIN, _SCATTER_INCHES
    whole_width, whole_height = left + width + 0.1, below + height + 0.23
    figure = Figure(figsize=(whole_width, whole_height), dpi=DPI)
    axes = figure.add_subplot()
    first = means[:, 0]
    second = means[:, 1] if means.shape[1] > 1 else np.zeros_like(first)
    size = float(np.clip(6000 / len(means), 2, 14))
    if labels is None:
        axes.scatter(first, second, s=size, linewidths=0)
    else:
        classes = np.unique(labels)
        palette = colormaps["tab10" if len(classes) <= 10 else "nipy_spectral"]
        for index, label in enumerate(classes):
            colour = palette(index if len(classes) <= 10 else index / (len(classes) - 1))
            members = labels == label
            name = _legend_text(class_names[label]) if class_names else str(label)
            axes.scatter(
                first[members], second[members], s=size, color=colour, label=name, linewidths=0, alpha=0.8
            )
        columns = 1 + (len(classes) - 1) // 16
        legend = axes.legend(
            title="class" if class_names else "label", loc="center left", bbox_to_anchor=(1.01, 0.5), ncols=columns
        )
        for handle in filter(None, legend.legend_handles):
            handle.set(sizes=[30], alpha=1)
        whole_width += 0.1 + legend.get_window_extent().width / DPI
        figure.set_figwidth(whole_width)
    axes.set_position((left / whole_width, below / whole_height, width / whole_width, height / whole_height))
    axes.set_title("Posterior means E[z|x]", fontsize=10)
    axes.set_xlabel(axis_names[0])
    axes.set_ylabel(axis_names[1])
    axes.set_aspect("equal", adjustable="datalim")
    axes.ticklabel_format(scilimits=(-3, 4))  # numbers no wider than the room beside the axes
    return figure


def _legend_text(name: str) -> str:
    """A name as matplotlib shows it: no formula between dollars, none left out for its underscore, none long."""
    short = name if len(name) <= _LEGEND_LETTERS else f"{name[: _LEGEND_LETTERS - 1]}…"
    return " " * name.startswith("_") + short.replace("$", r"\$")


def plot_latent_units(rates: Array, variances: Array, names: Sequence[str], threshold: float) -> Figure:
    """Latent units side by side: above the rate of each, below the variance of its mean.

    Args:
        rates: Nats per image of each unit, `[units]`.
        variances: Var_x E[z|x] of each, `[units]`.
        names: Of the units.
        threshold: The variance above which a unit is active.
    """
    figure = Figure(figsize=(float(np.clip(0.22 * len(rates), 4.5, 14)), 4.6), dpi=DPI, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    positions = np.arange(len(rates))
    active = variances > threshold
    colours = np.where(active, "tab:blue", "lightgrey")
    above.bar(positions, rates, color=colours, width=0.8)
    above.set_ylabel("rate, nats")
    above.set_title(f"{int(active.sum())} of {len(rates)} latent units are active", fontsize=10)
    below.scatter(positions, np.maximum(variances, 1e-12), c=colours, s=14, zorder=2)
    below.axhline(threshold, color="tab:red", linewidth=1, label=f"threshold {threshold:g}")
    below.set_yscale("log")
    below.set_ylim(bottom=max(1e-8, 0.3 * float(variances.min())))
    below.set_ylabel("variance of E[z|x]")
    below.legend(fontsize=8)
    step = -(-len(names) // 40)
    below.set_xticks(positions[::step], names[::step], fontsize=7)
    return figure


def plot_true_posteriors(
    densities: Sequence[Array], gaussians: Sequence[tuple[Array, Array]], extent: float
) -> Figure:
    """True posteriors of some images, with one and two deviations of the encoder's drawn on them.

    Args:
        densities: Of each image, `[side]`, or `[side, side]` with the first latent unit along the first axis.
        gaussians: Mean and deviation of each unit by the encoder, `[units]` each.
        extent: The axes go from −extent to extent.
    """
    columns = min(3, len(densities))
    rows = -(-len(densities) // columns)
    figure = Figure(figsize=(2.6 * columns, 2.6 * rows + 0.4), dpi=DPI, layout="constrained")
    for index, (density, (mean, deviation)) in enumerate(zip(densities, gaussians, strict=True)):
        axes = figure.add_subplot(rows, columns, index + 1)
        if density.ndim == 1:
            _draw_line(axes, density, mean[0], deviation[0], extent)
        else:
            _draw_map(axes, density, mean, deviation, extent)
    figure.suptitle("True posteriors p(z|x); red: one and two deviations of q(z|x)", fontsize=10)
    return figure


def _draw_line(axes: Any, density: Array, mean: float, deviation: float, extent: float) -> None:
    axis = np.linspace(-extent, extent, len(density))
    axes.plot(axis, density / density.sum() / (axis[1] - axis[0]), color="tab:blue")
    axes.plot(
        axis,
        np.exp(-0.5 * ((axis - mean) / deviation) ** 2) / (deviation * np.sqrt(2 * np.pi)),
        color="tab:red",
        linewidth=1,
    )
    axes.set_xlim(mean - 6 * deviation, mean + 6 * deviation)
    axes.set_yticks([])
    axes.set_xlabel("z1", fontsize=8)
    axes.tick_params(labelsize=7)


def _draw_map(axes: Any, density: Array, mean: Array, deviation: Array, extent: float) -> None:
    axes.imshow(
        density.T,
        origin="lower",
        extent=(-extent, extent, -extent, extent),
        cmap="Greys",
        interpolation="bilinear",
    )
    angle = np.linspace(0, 2 * np.pi, 100)
    for times in (1, 2):
        axes.plot(
            mean[0] + times * deviation[0] * np.cos(angle),
            mean[1] + times * deviation[1] * np.sin(angle),
            color="tab:red",
            linewidth=1,
        )
    half = max(0.5, 5 * float(deviation.max()))
    axes.set_xlim(mean[0] - half, mean[0] + half)
    axes.set_ylim(mean[1] - half, mean[1] + half)
    axes.tick_params(labelsize=7)
