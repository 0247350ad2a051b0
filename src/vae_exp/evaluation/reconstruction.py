"""How close reconstructions are to their images."""

import logging
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure

from vae_exp.argument_checks import check_int, check_optional_int
from vae_exp.data.images import ImageSet
from vae_exp.errors import UserError
from vae_exp.evaluation.fid import load_features
from vae_exp.evaluation.requirements import scored_images
from vae_exp.model.vae import VAE

_log = logging.getLogger(__name__)
_MIN_SIDE = 6  # pixels; the window of 11 is mirrored at the borders
_TINY = 1e-10


class ReconstructionEvaluator:
    """`mse`, `psnr`, `ssim` and `feature_distance` between images and their reconstructions, averaged over images.

    A reconstruction is the mean image E[x|z] at the posterior mean z = E[z|x]. `psnr` is −10 log₁₀ of the mean
    squared error of an image, in dB; `ssim` that of Wang et al. 2004 with a Gaussian window of 11 pixels, by
    torchmetrics, on images of at least 6 pixels. `feature_distance` is LPIPS (Zhang et al. 2018, equation 1) with
    all weights one, on the features of a file of the user's; without a file there is none.

    Args:
        features: A file written by `torch.export.save`: images `[batch, channels, height, width]` in [0, 1] → one
            or several layers, each `[batch, channels]` or `[batch, channels, height, width]`; or None.
        num_images: How many images of the split, a random subset (`scored_images`); None for all.
        batch_size: Images at once.
        every_n_epochs: Interval during training; None runs it once, at the end.

    Raises:
        ValueError: if a count is below its minimum.
        UserError: if the file cannot be read.
    """

    def __init__(
        self, features: str | None, num_images: int | None, batch_size: int, every_n_epochs: int | None
    ) -> None:
        self.every_n_epochs = check_optional_int("every_n_epochs", every_n_epochs)
        self._num_images = check_optional_int("num_images", num_images)
        self._batch_size = check_int("batch_size", batch_size)
        key = "evaluator.reconstruction.features"
        self._features = None if features is None else load_features(key, features)

    @torch.no_grad()
    def run(self, vae: VAE, images: ImageSet, generator: torch.Generator) -> Iterator[tuple[str, float]]:
        """Yield names and values."""
        images = scored_images("reconstruction", images, self._num_images)
        with_ssim = min(images.image_shape[1:]) >= _MIN_SIDE
        if not with_ssim:
            _log.warning("evaluator.reconstruction: no ssim, which needs images of at least %d pixels.", _MIN_SIDE)
        scores: dict[str, list[Tensor]] = {}
        for batch in images.batches(self._batch_size):
            rebuilt = vae.reconstruct(batch.images, batch.labels)
            errors = (batch.images - rebuilt).square().flatten(1).mean(dim=1)
            values = {"mse": errors, "psnr": -10 * errors.log10()}
            if with_ssim:
                values["ssim"] = _ssim(rebuilt, batch.images)
            if self._features is not None:
                values["feature_distance"] = feature_distance(
                    self._features.to(images.device), batch.images, rebuilt
                )
            for name, value in values.items():
                scores.setdefault(name, []).append(value.cpu())
        for name, parts in scores.items():
            yield name, torch.cat(parts).double().mean().item()


def _ssim(rebuilt: Tensor, images: Tensor) -> Tensor:
    result = structural_similarity_index_measure(rebuilt, images, data_range=1.0, reduction="none")
    assert isinstance(result, Tensor)
    return result.reshape(len(images))


def feature_distance(features: nn.Module, first: Tensor, second: Tensor) -> Tensor:
    """Σ over layers of ‖a/‖a‖ − b/‖b‖‖² with norms over channels, averaged over positions: `[batch]`.

    Args:
        features: Images → layers.
        first: Images `[batch, channels, height, width]`.
        second: Images to compare with, likewise.

    Raises:
        UserError: if the features are not layers of these images.
    """
    total = first.new_zeros(len(first))
    for one, other in zip(_layers(features, first), _layers(features, second), strict=True):
        difference = one / (one.norm(dim=1, keepdim=True) + _TINY) - other / (
            other.norm(dim=1, keepdim=True) + _TINY
        )
        total += difference.square().sum(dim=1).flatten(1).mean(dim=1)
    return total


def _layers(features: nn.Module, images: Tensor) -> Sequence[Tensor]:
    output = features(images)
    layers = list(output) if isinstance(output, list | tuple) else [output]
    for layer in layers:
        if not isinstance(layer, Tensor) or layer.dim() < 2 or len(layer) != len(images):
            kind = list(layer.shape) if isinstance(layer, Tensor) else type(layer).__name__
            raise UserError(
                f"evaluator.reconstruction.features returns {kind} for {len(images)} images; expected "
                f"[{len(images)}, channels, …], or several of them."
            )
    return [layer if layer.dim() > 2 else layer.unsqueeze(2) for layer in layers]
