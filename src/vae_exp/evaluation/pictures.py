"""Pictures of a model: each is its arrays, and a figure drawn from them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from vae_exp.data.images import ImageSet
from vae_exp.distributions.codebook import UniformCodebookPrior
from vae_exp.evaluation import plotting
from vae_exp.evaluation.latent_grids import (
    interpolations,
    latent_means,
    manifold,
    most_active_units,
    traversals,
)
from vae_exp.model.conditional import ConditionalVAE
from vae_exp.model.vae import VAE

_MOST_ROWS = 16
_SEAMLESS_FROM = 16  # pixels; smaller tiles run into one another
_MOST_POINTS = 10_000


@dataclass(frozen=True)
class Picture:
    """A named figure and the arrays behind it."""

    name: str
    arrays: dict[str, Tensor]
    figure: Figure

    def write_png(self, file: IO[bytes]) -> None:
        """Write the figure."""
        self.figure.savefig(file, format="png")

    def write_npz(self, file: IO[bytes]) -> None:
        """Write the arrays, readable by `numpy.load` without pickle."""
        arrays: dict[str, Any] = {name: array.cpu().numpy() for name, array in self.arrays.items()}
        np.savez_compressed(file, **arrays)


def all_pictures(
    vae: VAE, images: ImageSet, generator: torch.Generator, columns: int, manifold_side: int
) -> Iterator[Picture]:
    """Every picture that fits the model, one after another.

    Args:
        vae: The model, in evaluation mode.
        images: Where originals come from.
        generator: Draws the samples.
        columns: Images per row.
        manifold_side: Points along an axis of the manifold of a two-dimensional latent space.
    """
    points = images.random_subset(_MOST_POINTS)
    means, deviations = latent_means(vae, points)
    yield reconstructions(vae, images, columns)
    yield samples(vae, generator, columns)
    if not isinstance(vae.prior(), UniformCodebookPrior):  # entries of a codebook have no way from one to another
        with vae.given(images.labels_at(slice(0, 1))):  # what is drawn there is of the first image's class
            by_unit = (
                manifold_picture(vae, manifold_side, _class_of_the_first(vae, images))
                if means.shape[1] == 2
                else traversal_picture(vae, images, means, columns)
            )
        yield by_unit
    yield interpolation_picture(vae, images, columns)
    yield latent_picture(means, deviations, points.labels)


def reconstructions(vae: VAE, images: ImageSet, columns: int) -> Picture:
    """Originals above their reconstructions from the posterior mean."""
    originals = images.first(4 * columns).scaled()
    originals = originals[: max(1, len(originals) // columns) * columns]
    columns = min(columns, len(originals))
    with vae.given(images.labels_at(slice(len(originals)))):
        rebuilt = vae.reconstruct(originals)
    pairs = torch.stack([_in_rows(originals, columns), _in_rows(rebuilt, columns)], dim=1).flatten(0, 1)
    figure = plotting.plot_image_grid(
        pairs.cpu().numpy(),
        "Originals and their reconstructions from E[z|x]",
        row_labels=["original", "reconstruction"] * (len(pairs) // 2),
    )
    return Picture("reconstructions", {"originals": originals, "reconstructions": rebuilt}, figure)


def samples(vae: VAE, generator: torch.Generator, columns: int) -> Picture:
    """Mean images of draws from the prior."""
    images = vae.sample(columns * columns, generator)
    figure = plotting.plot_image_grid(
        _in_rows(images, columns).cpu().numpy(),
        "Samples: E[x|z] for z ~ p(z)",
        footer=f"classes 0 to {vae.classes - 1} in turn" if isinstance(vae, ConditionalVAE) else "",
    )
    return Picture("samples", {"samples": images}, figure)


def manifold_picture(vae: VAE, side: int, of_class: str = "") -> Picture:
    """The two-dimensional latent space, seen through the inverse normal CDF."""
    images, axis = manifold(vae, side)
    low, high = axis[0].item(), axis[-1].item()
    figure = plotting.plot_image_grid(
        images.cpu().numpy(),
        "E[x|z] over the quantiles of N(0, 1)",
        gap=0 if images.shape[-1] >= _SEAMLESS_FROM else 1,
        footer=f"z1 from {low:.2f} to {high:.2f} rightwards, z2 likewise upwards{of_class}",
    )
    return Picture("manifold", {"manifold": images, "axis": axis}, figure)


def traversal_picture(vae: VAE, images: ImageSet, means: Tensor, columns: int) -> Picture:
    """One row per unit, most active first, each running through the quantiles of N(0, 1)."""
    units = most_active_units(means, _MOST_ROWS)
    rows, values = traversals(vae, images.scaled(slice(0, 1))[0], units, columns)
    figure = plotting.plot_image_grid(
        rows.cpu().numpy(),
        "Traversals of the most active units",
        row_labels=[f"z{unit + 1}" for unit in units.tolist()],
        footer=f"from {values[0].item():.2f} to {values[-1].item():.2f}, other units at E[z|x] of one image"
        + _class_of_the_first(vae, images),
    )
    return Picture("traversals", {"traversals": rows, "units": units, "values": values}, figure)


def interpolation_picture(vae: VAE, images: ImageSet, columns: int) -> Picture:
    """Lines between the posterior means of pairs of images, the originals at both ends."""
    chosen = images.first(16).scaled()
    half = max(1, len(chosen) // 2)
    first, second = chosen[:half], chosen[-half:]
    labels = images.labels_at(slice(half)), images.labels_at(slice(len(chosen) - half, len(chosen)))
    between = interpolations(vae, first, second, columns, labels)
    rows = torch.cat([first[:, None], between, second[:, None]], dim=1)
    figure = plotting.plot_image_grid(
        rows.cpu().numpy(), "Interpolations between two images", footer="originals at both ends"
    )
    return Picture("interpolations", {"first": first, "second": second, "interpolations": between}, figure)


def latent_picture(means: Tensor, deviations: Tensor, labels: Tensor | None) -> Picture:
    """Posterior means, coloured by label; of many units the two most active."""
    units = most_active_units(means, 2).sort().values
    names = [f"z{unit + 1}" for unit in units.tolist()] + [""]
    figure = plotting.plot_latent_scatter(
        means[:, units].cpu().numpy(),
        None if labels is None else labels.cpu().numpy(),
        (names[0], names[1]),
    )
    arrays = {"means": means, "standard_deviations": deviations}
    return Picture("latent_scatter", arrays | ({} if labels is None else {"labels": labels}), figure)


def _class_of_the_first(vae: VAE, images: ImageSet) -> str:
    """Words for below a picture that shows one class alone."""
    labels = images.labels_at(slice(0, 1))
    return f"; class {int(labels[0])}" if isinstance(vae, ConditionalVAE) and labels is not None else ""


def _in_rows(images: Tensor, columns: int) -> Tensor:
    rows: Tensor = images.unflatten(0, (-1, columns))
    return rows
