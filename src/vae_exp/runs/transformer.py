"""A trained run as a transformer of scikit-learn."""

from os import PathLike
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, TransformerMixin

from vae_exp.data.images import ImageSet
from vae_exp.errors import UserError
from vae_exp.evaluation.image_scores import nll_by_batch
from vae_exp.evaluation.requirements import require_density
from vae_exp.runs.trained_run import TrainedRun, load_run

Array = npt.NDArray[Any]


class VAETransformer(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Images to posterior means, for pipelines of scikit-learn; `fit` does nothing, because the model is trained.

    Images are float arrays in [0, 1], `[N, *image_shape]` or flattened, `[N, features]`.

    Args:
        run: A trained run or its directory.
        num_importance_samples: Draws of z per image in `score_samples`.
        batch_size: Images at once.
        seed: Of the draws.
    """

    def __init__(
        self,
        run: TrainedRun | str | PathLike[str],
        num_importance_samples: int = 100,
        batch_size: int = 500,
        seed: int = 0,
    ) -> None:
        self.run = run
        self.num_importance_samples = num_importance_samples
        self.batch_size = batch_size
        self.seed = seed

    def fit(self, images: Array, labels: Array | None = None) -> Self:
        """Return the transformer as it is."""
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    @torch.no_grad()
    def transform(self, images: Array) -> Array:
        """E[z|x] of images, `[N, latent_dim]`."""
        run, image_set = self._open(images)
        means = [run.vae.encode(batch.images).mean for batch in image_set.batches(self.batch_size)]
        result: Array = torch.cat(means).cpu().numpy()
        return result

    @torch.no_grad()
    def inverse_transform(self, latents: Array) -> Array:
        """E[x|z] of latents `[N, latent_dim]`, flattened: `[N, features]` in [0, 1]."""
        run = self._run()
        parts = torch.from_numpy(np.asarray(latents, np.float32)).to(run.device).split(self.batch_size)
        result: Array = torch.cat([run.vae.decode(part).mean.flatten(1) for part in parts]).cpu().numpy()
        return result

    def score_samples(self, images: Array) -> Array:
        """Log p(x) of each image by importance sampling, `[N]`, in nats (see `log_evidence`)."""
        run, image_set = self._open(images)
        require_density("nll", run.vae, image_set)
        generator = torch.Generator(run.device).manual_seed(self.seed)
        parts = nll_by_batch(run.vae, image_set, self.num_importance_samples, generator)
        return -np.concatenate([part["nll"] for part in parts])

    def _run(self) -> TrainedRun:
        run = self.run if isinstance(self.run, TrainedRun) else load_run(self.run)
        if run.vae.needs_labels:
            raise UserError("a class-conditional model has no VAETransformer: its codes depend on the classes.")
        return run

    def _open(self, images: Array) -> tuple[TrainedRun, ImageSet]:
        run = self._run()
        shape = run.config["data"]["image_shape"]
        pixels = torch.from_numpy(np.asarray(images, np.float32))
        if pixels[0].numel() != int(np.prod(shape)):
            raise UserError(f"images of shape {list(pixels.shape[1:])} are not those of the run, {shape}.")
        return run, ImageSet(pixels.reshape(-1, *shape)).to(run.device)
