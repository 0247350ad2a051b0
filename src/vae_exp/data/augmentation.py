"""Random changes of the training images, drawn on the device in every step."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from vae_exp.data.images import ImageSet
from vae_exp.distributions.sampling import draw_sharded
from vae_exp.errors import UserError

_MAX_SHIFT = 1 / 8  # of the side
_MIN_CROP = 0.8  # of the side

Augmentation = Callable[[Tensor, torch.Generator], Tensor]


def flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability 1/2; `[batch, channels, height, width]`."""
    uniform = _uniform(images, 1, generator).view(-1, 1, 1, 1)
    return torch.where(uniform < 0.5, images.flip(-1), images)


def shift(images: Tensor, generator: torch.Generator) -> Tensor:
    """Move each image by whole pixels, up to 1/8 of its sides; what becomes free is filled by its edge."""
    uniform = _uniform(images, 2, generator)
    for axis in (2, 3):
        size = images.shape[axis]
        most = int(size * _MAX_SHIFT)
        steps = (uniform[:, axis - 2] * (2 * most + 1)).floor().long() - most
        source = (torch.arange(size, device=images.device) - steps.unsqueeze(1)).clamp(0, size - 1)
        index = source.view(-1, 1, size, 1) if axis == 2 else source.view(-1, 1, 1, size)
        images = images.gather(axis, index.expand(images.shape))
    return images


def crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """Enlarge a random part of each image, 0.8 to 1 of its sides, to the whole; bilinear between pixels."""
    uniform = _uniform(images, 3, generator)
    side = _MIN_CROP + (1 - _MIN_CROP) * uniform[:, :1]
    centre = (1 - side) * (2 * uniform[:, 1:] - 1)  # in [-1, 1], the coordinates of the whole image
    affine = torch.cat([torch.diag_embed(side.expand(-1, 2)), centre.unsqueeze(2)], dim=2)
    grid = functional.affine_grid(affine, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


AUGMENTATIONS: dict[str, Augmentation] = {"flip": flip, "shift": shift, "crop": crop}


def make_augmentation(images: ImageSet) -> Augmentation | None:
    """All that `images.augment` names, one after the other; None if it names nothing.

    The result has the values that the images can have: integer pixels stay multiples of 1 / `pixel_max`.
    """
    if not images.augment:
        return None
    steps = [AUGMENTATIONS[name] for name in images.augment]
    levels = None if images.pixels.is_floating_point() else images.pixel_max

    def augment(batch: Tensor, generator: torch.Generator) -> Tensor:
        for step in steps:
            batch = step(batch, generator)
        return batch if levels is None else batch.mul(levels).round_().div_(levels)

    return augment


def check_augmentations(names: Sequence[str]) -> None:
    """Refuse a name that is no augmentation.

    Raises:
        UserError: names the key, the value and what is known.
    """
    if unknown := [name for name in names if name not in list(AUGMENTATIONS)]:  # a list has no hash
        raise UserError(f"data.augment={list(names)}: {unknown[0]} is not known; use {', '.join(AUGMENTATIONS)}.")


def _uniform(images: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Numbers in [0, 1), `[batch, count]`; processes that share a batch draw their parts of the same ones."""
    return draw_sharded(torch.rand, images.new_empty(len(images), count), generator, ())
