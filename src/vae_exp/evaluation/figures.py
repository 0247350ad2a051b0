"""An evaluator that draws."""

from collections.abc import Iterator

import torch
from matplotlib.figure import Figure

from vae_exp.data.images import ImageSet
from vae_exp.evaluation.arguments import require_count, require_interval
from vae_exp.evaluation.pictures import all_pictures
from vae_exp.model.vae import VAE

_MOST = 100  # of anything in a row: what is larger no page shows


class FiguresEvaluator:
    """Reconstructions, samples, the manifold or traversals, interpolations and the latent scatter.

    Args:
        columns: Images per row, 2 to 100.
        manifold_side: Points along an axis of the manifold of a two-dimensional latent space, 2 to 100.
        every_n_epochs: Interval during training; None runs it once, at the end.
    """

    def __init__(self, columns: int, manifold_side: int, every_n_epochs: int | None) -> None:
        self.every_n_epochs = require_interval("every_n_epochs", every_n_epochs)
        self._columns = require_count("columns", columns, 2, _MOST)
        self._manifold_side = require_count("manifold_side", manifold_side, 2, _MOST)

    def run(self, vae: VAE, images: ImageSet, generator: torch.Generator) -> Iterator[tuple[str, Figure]]:
        """Yield names and figures."""
        for picture in all_pictures(vae, images, generator, self._columns, self._manifold_side):
            yield picture.name, picture.figure
