"""A trained run as a transformer of scikit-learn."""

from numbers import Integral
from os import PathLike
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_array, check_scalar

from vae_exp.data.images import ImageSet
from vae_exp.errors import UserError
from vae_exp.evaluation.image_scores import nll_by_batch
from vae_exp.evaluation.requirements import require_density
from vae_exp.runs.trained_run import TrainedRun, load_run

Array = npt.NDArray[Any]


class VAETransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Images to posterior means, for pipelines of scikit-learn; `fit` does nothing, because the model is trained.

    Images are arrays in [0, 1], `[N, channels, height, width]` or these flattened, `[N, features]`; the axis of a
    single channel may be missing or last.

    Args:
        run: A trained run or its directory.
        num_importance_samples: Draws of z per image in `score_samples`.
        batch_size: Images at once.
        seed: Of the draws.

    Raises:
        ValueError: from the methods, for an argument out of range, and for arrays that are no such images or
            latents; says what is expected.
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

    @property
    def _n_features_out(self) -> int:
        """How many names `get_feature_names_out` has: `vaetransformer0`, …, one for each latent unit."""
        [latent_dim] = self._run().vae.prior().event_shape
        return int(latent_dim)

    @torch.no_grad()
    def transform(self, images: Array) -> Array:
        """E[z|x] of images, `[N, latent_dim]`."""
        run, image_set = self._open(images)
        means = [run.vae.encode(batch.images).mean for batch in image_set.batches(self.batch_size)]
        result: Array = torch.cat(means).cpu().numpy()
        return result

    @torch.no_grad()
    def inverse_transform(self, latents: Array) -> Array:
        """E[x|z] of latents `[N, latent_dim]`, flattened: `[N, features]`."""
        run = self._run()
        values = check_array(latents, dtype=np.float32, input_name="latents", estimator=self)
        [latent_dim] = run.vae.prior().event_shape
        if values.shape[1] != latent_dim:
            raise ValueError(f"latents have shape {list(values.shape)}; expected [N, {latent_dim}].")
        parts = torch.from_numpy(values).to(run.device).split(self.batch_size)
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
        for name, least in (("num_importance_samples", 1), ("batch_size", 1), ("seed", 0)):
            check_scalar(getattr(self, name), name, Integral, min_val=least)
        run = self.run if isinstance(self.run, TrainedRun) else load_run(self.run)
        if run.vae.needs_labels:
            raise UserError("a class-conditional model has no VAETransformer: its codes depend on the classes.")
        return run

    def _open(self, images: Array) -> tuple[TrainedRun, ImageSet]:
        run = self._run()
        shape = run.config["data"]["image_shape"]
        pixels = check_array(images, dtype=np.float32, allow_nd=True, input_name="images", estimator=self)
        axes = [size for size in pixels.shape[1:] if size > 1]
        if axes not in ([size for size in shape if size > 1], [int(np.prod(shape))]):
            raise ValueError(
                f"images of shape {list(pixels.shape[1:])} are not those of the run, {shape} ([channels, height, "
                f"width]), nor these flattened."
            )
        low, high = float(pixels.min()), float(pixels.max())
        if low < 0 or high > 1:
            raise ValueError(
                f"images hold values from {low:g} to {high:g}; expected [0, 1]: divide by the value of white, 255 "
                f"for uint8."
            )
        return run, ImageSet(torch.from_numpy(pixels).reshape(-1, *shape)).to(run.device)
