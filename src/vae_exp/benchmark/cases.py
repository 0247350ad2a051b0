"""What the benchmark's config asks for: the images, and a case for each batch size and each list of widths."""

from collections.abc import Sequence
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from vae_exp.benchmark.candidates import Case
from vae_exp.benchmark.hardware import known_precisions, known_steps
from vae_exp.configuration.instantiate import build_splits
from vae_exp.configuration.schema import BenchmarkConfig, DataConfig, resolve_to_dict
from vae_exp.data.images import ImageSet
from vae_exp.errors import UserError


def cases(config: DictConfig, settings: BenchmarkConfig, device: torch.device) -> list[Case]:
    """Every list of widths with every batch size, on the same images.

    Raises:
        UserError: if a batch is larger than the data, or if something has no plain loop to compare with.
    """
    return [
        Case(_plain(config, widths, images.image_shape), images, batch_size, device)
        for widths in settings.widths or [settings.model.hidden_dims]
        for batch_size in settings.batch_size
        for images in [training_images(settings.data, batch_size)]
    ]


def training_images(data: DataConfig, batch_size: int) -> ImageSet:
    """The training images in host memory, as many as whole batches hold.

    Raises:
        UserError: if they are fewer than one batch.
    """
    images = build_splits(data).train
    if batch_size > len(images):
        raise UserError(f"batch_size=[{batch_size}] is larger than the {len(images)} training images; use fewer.")
    return images.take(len(images) // batch_size * batch_size)


def chosen_steps(asked: Sequence[str] | None, device: torch.device) -> list[str]:
    """The engine's step modes; `graph` is recorded on CUDA alone.

    Raises:
        UserError: if a mode was asked for that the device does not have.
    """
    if asked is None:
        return known_steps(device)
    if "graph" in asked and device.type != "cuda":
        raise UserError(f"steps={list(asked)}: graph needs a CUDA device, not {device}; use eager or compile.")
    return list(asked)


def chosen_precisions(asked: Sequence[str] | None, device: torch.device) -> list[str]:
    """The precisions; `bf16` may be asked for where it has to be emulated.

    Raises:
        UserError: if `tf32` was asked for on a device that does not have it.
    """
    known = known_precisions(device)
    if asked is None:
        return known
    if "tf32" in asked and "tf32" not in known:
        raise UserError(
            f"precisions={list(asked)}: tf32 needs a CUDA device of compute capability 8.0 or higher, "
            f"not {device}; use {' or '.join(known)}."
        )
    return list(asked)


def _plain(config: DictConfig, widths: Sequence[int], image_shape: Sequence[int]) -> dict[str, Any]:
    sized = OmegaConf.merge(config, {"model": {"hidden_dims": list(widths)}})
    assert isinstance(sized, DictConfig)
    return resolve_to_dict(sized, image_shape)
