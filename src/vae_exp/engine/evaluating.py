"""Running evaluators: numbers on one side, figures on the other."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vae_exp.data.images import ImageSet
from vae_exp.engine.determinism import generator
from vae_exp.engine.precision import computing_in
from vae_exp.engine.protocols import Evaluator
from vae_exp.model.vae import VAE
from vae_exp.run_directory import write_atomically

_QUICK = {"compress_level": 1}


@torch.no_grad()
def run_evaluator(
    evaluator: Evaluator, vae: VAE, images: ImageSet, seed: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """What an evaluator yields, with noise that follows from the seed alone.

    Returns:
        Numbers by name, and matplotlib figures by name.
    """
    vae.eval()
    noise = generator(seed, "evaluation", images.device)
    numbers: dict[str, float] = {}
    figures: dict[str, Any] = {}
    with computing_in(vae, "fp32"):
        for name, value in evaluator.run(vae, images, noise):
            if hasattr(value, "savefig"):
                figures[name] = value
            else:
                numbers[name] = float(value)
    return numbers, figures


def save_figures(figures: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """Write figures as PNG files, each whole or not at all; the files by name."""
    paths = {name: folder / f"{name}.png" for name in figures}
    for name, figure in figures.items():
        write_atomically(paths[name], partial(figure.savefig, format="png", pil_kwargs=_QUICK))
        figure.clear()  # a figure and its parts refer to one another: without this a sweep grows
    return paths
