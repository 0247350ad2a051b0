"""Figures of a model with the arrays they show, and the evaluator that draws them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from vae_exp.argument_checks import check_int, check_optional_int
from vae_exp.data.images import Batch, ImageSet
from vae_exp.distributions.codebook import UniformCodebookPrior
from vae_exp.evaluation.fitted_prior import prior_name
from vae_exp.evaluation.image_grid import plot_image_grid
from vae_exp.evaluation.latent_grids import (
    interpolations,
    latent_means,
    manifold,
    most_active_units,
    traversals,
)
from vae_exp.evaluation.plotting import plot_latent_scatter
from vae_exp.model.conditional import ConditionalVAE
from vae_exp.model.vae import VAE

_MAX_PER_ROW = 100  # images; a page shows no more
_MAX_TRAVERSALS = 16
_SEAMLESS_FROM = 16  # pixels; smaller tiles run into one another
_MAX_POINTS = 10_000


class FiguresEvaluator:
    """Reconstructions, samples, the manifold or traversals, interpolations and the latent scatter.

    Args:
        columns: Images per row.
        manifold_size: Points along an axis of the manifold of a two-dimensional latent space.
        every_n_epochs: Interval during training; None runs it once, at the end.
    """

    def __init__(self, columns: int, manifold_size: int, every_n_epochs: int | None) -> None:
        self.every_n_epochs = check_optional_int("every_n_epochs", every_n_epochs)
        self._columns = check_int("columns", columns, 2, _MAX_PER_ROW)
        self._manifold_size = check_int("manifold_size", manifold_size, 2, _MAX_PER_ROW)

    def run(
        self, vae: VAE, images: ImageSet, generator: torch.Generator
    ) -> Iterator[tuple[str, Figure | Image.Image]]:
        """Yield names and figures."""
        for figure in draw_figures(vae, images, generator, self._columns, self._manifold_size):
            yield figure.name, figure.figure


@dataclass(frozen=True)
class NamedFigure:
    """A figure, its name and the arrays it shows."""

    name: str
    arrays: dict[str, Tensor]
    figure: Figure | Image.Image

    def write_npz(self, file: IO[bytes]) -> None:
        """Write the arrays, readable by `numpy.load` without pickle."""
        arrays: dict[str, Any] = {name: array.cpu().numpy() for name, array in self.arrays.items()}
        np.savez_compressed(file, **arrays)


def draw_figures(
    vae: VAE, images: ImageSet, generator: torch.Generator, columns: int, manifold_size: int
) -> Iterator[NamedFigure]:
    """Draw every figure that fits the model, one after another.

    Args:
        vae: The model, in evaluation mode.
        images: Where originals come from.
        generator: Draws the samples.
        columns: Images per row.
        manifold_size: Points along an axis of the manifold of a two-dimensional latent space.
    """
    points = images.random_subset(_MAX_POINTS)
    means, deviations = latent_means(vae, points)
    yield _reconstructions(vae, images, columns)
    yield _samples(vae, generator, columns)
    if not isinstance(vae.prior(), UniformCodebookPrior):  # there is no path between entries of a codebook
        first = images.batch(slice(0, 1))
        yield (
            _manifold(vae, manifold_size, first.labels)
            if means.shape[1] == 2
            else _traversals(vae, first, means, columns)
        )
    yield _interpolations(vae, images, columns)
    yield _latent_scatter(means, deviations, points)


def _reconstructions(vae: VAE, images: ImageSet, columns: int) -> NamedFigure:
    """Originals above their reconstructions from the posterior mean; of all classes where these are in order."""
    count = min(len(images), 4 * columns)
    batch = images.random_subset(max(1, count // columns) * columns).batch()
    originals, columns = batch.images, min(columns, count)
    rebuilt = vae.reconstruct(originals, batch.labels)
    pairs = torch.stack([_in_rows(originals, columns), _in_rows(rebuilt, columns)], dim=1).flatten(0, 1)
    figure = plot_image_grid(
        pairs.cpu().numpy(),
        "Originals and their reconstructions from E[z|x]",
        row_labels=["original", "reconstruction"] * (len(pairs) // 2),
    )
    return NamedFigure("reconstructions", {"originals": originals, "reconstructions": rebuilt}, figure)


def _samples(vae: VAE, generator: torch.Generator, columns: int) -> NamedFigure:
    """Mean images of draws from the prior."""
    images = vae.sample(columns * columns, generator)
    figure = plot_image_grid(
        _in_rows(images, columns).cpu().numpy(),
        f"Samples: E[x|z] for z from {prior_name(vae)}",
        footer=f"classes 0 to {vae.classes - 1} in turn" if isinstance(vae, ConditionalVAE) else "",
    )
    return NamedFigure("samples", {"samples": images}, figure)


def _manifold(vae: VAE, side: int, labels: Tensor | None) -> NamedFigure:
    """The two-dimensional latent space, seen through the inverse normal CDF."""
    images, axis = manifold(vae, side, labels)
    low, high = axis[0].item(), axis[-1].item()
    figure = plot_image_grid(
        images.cpu().numpy(),
        "E[x|z] over the quantiles of N(0, 1)",
        gap=0 if images.shape[-1] >= _SEAMLESS_FROM else 1,
        footer=f"z1 from {low:.2f} to {high:.2f} rightwards, z2 likewise upwards{_class_note(vae, labels)}",
    )
    return NamedFigure("manifold", {"manifold": images, "axis": axis}, figure)


def _traversals(vae: VAE, start: Batch, means: Tensor, columns: int) -> NamedFigure:
    """One row per unit, most active first, each running through the quantiles of N(0, 1)."""
    units = most_active_units(means, _MAX_TRAVERSALS)
    rows, values = traversals(vae, start, units, columns)
    figure = plot_image_grid(
        rows.cpu().numpy(),
        "Traversals of the most active units",
        row_labels=[f"z{unit + 1}" for unit in units.tolist()],
        footer=f"from {values[0].item():.2f} to {values[-1].item():.2f}, other units at E[z|x] of one image"
        + _class_note(vae, start.labels),
    )
    return NamedFigure("traversals", {"traversals": rows, "units": units, "values": values}, figure)


def _interpolations(vae: VAE, images: ImageSet, columns: int) -> NamedFigure:
    """Lines between the posterior means of pairs of images, the originals at both ends."""
    count = min(len(images), 16)
    half, shown = max(1, count // 2), images.random_subset(count)
    first, second = shown.batch(slice(half)), shown.batch(slice(count - half, count))
    between = interpolations(vae, first, second, columns)
    rows = torch.cat([first.images[:, None], between, second.images[:, None]], dim=1)
    figure = plot_image_grid(
        rows.cpu().numpy(), "Interpolations between two images", footer="originals at both ends"
    )
    arrays = {"first": first.images, "second": second.images, "interpolations": between}
    return NamedFigure("interpolations", arrays, figure)


def _latent_scatter(means: Tensor, deviations: Tensor, images: ImageSet) -> NamedFigure:
    """Posterior means of images, coloured by label; of many units the two most active."""
    labels = images.labels
    units = most_active_units(means, 2).sort().values
    names = [f"z{unit + 1}" for unit in units.tolist()] + [""]
    figure = plot_latent_scatter(
        means[:, units].cpu().numpy(),
        None if labels is None else labels.cpu().numpy(),
        (names[0], names[1]),
        images.classes,
    )
    arrays = {"means": means, "standard_deviations": deviations}
    return NamedFigure("latent_scatter", arrays | ({} if labels is None else {"labels": labels}), figure)


def _class_note(vae: VAE, labels: Tensor | None) -> str:
    """The end of a footer that names the class of all images; empty without classes."""
    return f"; class {int(labels[0])}" if isinstance(vae, ConditionalVAE) and labels is not None else ""


def _in_rows(images: Tensor, columns: int) -> Tensor:
    rows: Tensor = images.unflatten(0, (-1, columns))
    return rows
