"""A run's reconstructions, samples and latent space side by side in one small picture."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from matplotlib import colormaps
from PIL import Image, ImageDraw
from torch import Tensor

from vae_exp import load_run
from vae_exp.data.images import Batch, ImageSet
from vae_exp.evaluation.figures import draw_figures
from vae_exp.evaluation.latent_grids import most_active_units, traversals
from vae_exp.model.vae import VAE
from vae_exp.model.vq import CodeEncoder, code_grid

MAX_BYTES = 40_000
_SIDE = 6  # images of a panel downwards
_ACROSS = 5  # images of a panel, but steps of a traversal
_TILE = 24  # pixels; smaller images are enlarged
_PANEL_GAP = 10
_CANDIDATES = 1000  # images for the start of a traversal
_QUALITIES = (90, 80, 70, 60)
_OVERSAMPLING = 4
_DOT = 2.4  # pixels

Array = npt.NDArray[Any]


def write_strip(run_directory: Path, path: Path) -> None:
    """Write a WebP picture of a run: held-out images over their reconstructions, samples, the latent space.

    Args:
        run_directory: A run that has been trained.
        path: The picture.
    """
    run = load_run(run_directory)
    images = run.images("val")
    generator = torch.Generator().manual_seed(0)
    figures = {
        figure.name: figure.arrays
        for figure in draw_figures(run.vae, images, generator, columns=_SIDE, manifold_size=_SIDE)
    }
    originals, rebuilt = (
        figures["reconstructions"][name].unflatten(0, (-1, _SIDE))[: _SIDE // 2, :_ACROSS]
        for name in ("originals", "reconstructions")
    )
    samples = figures["samples"]["samples"].unflatten(0, (_SIDE, _SIDE))[:, :_ACROSS]
    panels = [
        _grid(_alternate(originals, rebuilt)),
        _grid(samples),
        _latent_panel(run.vae, figures, images, originals),
    ]
    _save(_side_by_side(panels), path)


def _latent_panel(
    vae: VAE, figures: Mapping[str, Mapping[str, Tensor]], images: ImageSet, originals: Tensor
) -> Image.Image:
    """Codes as colours, the plane of two units, or of more traversals from an image of some contrast."""
    if isinstance(vae.encoder, CodeEncoder):
        return _grid(_alternate(originals.expand(-1, -1, 3, -1, -1), _code_colours(vae, originals)))
    scatter = figures["latent_scatter"]
    if scatter["means"].shape[1] == 2:
        labels = scatter["labels"].numpy()
        return _plane(scatter["means"].numpy(), labels, _SIDE * (_scale(originals) * originals.shape[-1] + 1) - 1)
    units = most_active_units(scatter["means"], _SIDE)
    return _grid(traversals(vae, _clear_image(images), units, _SIDE)[0])


def _clear_image(images: ImageSet) -> Batch:
    """The image that has more contrast than three quarters of them: a traversal of a clear sky shows nothing."""
    first = images.take(_CANDIDATES).batch().images
    index = int(first.flatten(1).var(dim=1).argsort()[3 * len(first) // 4])
    return images.batch(slice(index, index + 1))


@torch.no_grad()
def _code_colours(vae: VAE, images: Tensor) -> Tensor:
    """The grid of codes of each image, coloured by their three principal components; shaped as RGB images."""
    encoder = vae.encoder
    shape = images.shape[2:]
    grid = next(grid for n in range(9) if math.prod(grid := code_grid(shape, n)) == encoder.positions)
    codes = vae.encode(images.flatten(0, 1)).mean.unflatten(1, (encoder.positions, -1))
    centred = codes - codes.mean(dim=(0, 1))
    components = centred @ torch.linalg.svd(centred.flatten(0, 1), full_matrices=False).Vh[:3].T
    low, high = (components.flatten(0, 1).quantile(share, dim=0) for share in (0.02, 0.98))
    colours = ((components - low) / (high - low)).clamp(0, 1).transpose(1, 2).unflatten(2, grid)
    return torch.nn.functional.interpolate(colours, shape[1:]).unflatten(0, images.shape[:2])


def _plane(means: Array, labels: Array, side: int) -> Image.Image:
    """Posterior means of two units, coloured by label, both axes to one scale."""
    large = side * _OVERSAMPLING
    image = Image.new("RGB", (large, large), "white")
    draw = ImageDraw.Draw(image)
    low, high = np.quantile(means, 0.002, axis=0), np.quantile(means, 0.998, axis=0)
    unit = 0.96 * large / (high - low).max()
    points = (means - (low + high) / 2) * unit * [1, -1] + large / 2
    radius = _DOT * _OVERSAMPLING / 2
    for (x, y), label in zip(points, labels, strict=True):
        colour = tuple(round(255 * part) for part in colormaps["tab10"](int(label))[:3])
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    return image.resize((side, side), Image.Resampling.LANCZOS)


def _alternate(above: Tensor, below: Tensor) -> Tensor:
    """Rows of both in turn."""
    return torch.stack([above, below], dim=1).flatten(0, 1)


def _scale(images: Tensor) -> int:
    return -(-_TILE // images.shape[-1])


def _grid(images: Tensor) -> Image.Image:
    """Images `[rows, columns, channels, height, width]` in [0, 1] on white, a pixel between them."""
    enlarged = images.repeat_interleave(_scale(images), -1).repeat_interleave(_scale(images), -2)
    padded = torch.nn.functional.pad(enlarged, (0, 1, 0, 1), value=1.0)
    canvas = padded.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)[:-1, :-1]
    pixels = (255 * canvas.expand(-1, -1, 3)).round().clamp(0, 255).byte().numpy()
    return Image.fromarray(pixels)


def _side_by_side(panels: list[Image.Image]) -> Image.Image:
    width = sum(panel.width for panel in panels) + _PANEL_GAP * (len(panels) - 1)
    strip = Image.new("RGB", (width, max(panel.height for panel in panels)), "white")
    left = 0
    for panel in panels:
        strip.paste(panel, (left, 0))
        left += panel.width + _PANEL_GAP
    return strip


def _save(image: Image.Image, path: Path) -> None:
    """At the best quality that stays below `MAX_BYTES`."""
    path.parent.mkdir(exist_ok=True)
    for quality in _QUALITIES:
        image.save(path, "webp", quality=quality, method=6)
        if path.stat().st_size <= MAX_BYTES:
            return
    raise AssertionError(f"{path} has {path.stat().st_size} bytes, more than {MAX_BYTES}")
