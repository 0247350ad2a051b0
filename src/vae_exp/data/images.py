"""A set of images in memory, scaled to [0, 1] only when a batch is taken."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from math import prod

import torch
from torch import Tensor

from vae_exp.data.pixel_file import FilePixels
from vae_exp.errors import UserError

_SUBSET_SEED = 0
_MAX_CHUNK_IMAGES = 10_000  # the most images that are read at once
_MAX_CHUNK_VALUES = 2**21  # the most values that are read at once, unless one image has more


def check_int64(value: int, name: str) -> None:
    """Refuse a label that int64 does not hold.

    Args:
        value: The label.
        name: What it is a label of, for messages.

    Raises:
        UserError: if it is out of range.
    """
    if not -(2**63) <= value < 2**63:
        raise UserError(f"{name} holds {value}; expected integers from -2**63 to 2**63 - 1, as int64 holds.")


@dataclass(frozen=True)
class Batch:
    """Images scaled to [0, 1] and, where there are any, their labels.

    Args:
        images: `[batch, channels, height, width]`, float32.
        labels: `[batch]`, int64; None where the data have none.
    """

    images: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class ImageSet:
    """Images and, where there are any, their labels.

    Args:
        pixels: `[N, channels, height, width]`; integers from 0 to `pixel_max` as uint8, or float32 in [0, 1]. A
            tensor, or `FilePixels`, which stay in their file.
        labels: `[N]`, int64; None where the data have none.
        pixel_max: The integer that stands for white; by default 255 for uint8 pixels and 1 for float pixels.
        binarization_seed: Set for dynamic binarisation: each training step draws every pixel, black or white with
            its grey value as probability (Salakhutdinov & Murray 2008); for scoring the pixels are drawn once from
            this seed (`with_fixed_binarization`). None uses the pixels as they are.
        factors: `[N, factors]`, int64: the factors of variation of an image, such as shape and position; None
            where unknown.
        stream_device: The device that batches are copied to while the pixels stay where they are; None uses
            them in place.
        names: The file of each image, where each has one.
        classes: The names of the classes, in the order of their labels, where they have names.
        value_range: The values that became 0 and 1, where the source has rescaled the images.
        on_progress: Called by `report`; None where the progress is not shown.
        augment: Names of `vae_exp.data.augmentation.AUGMENTATIONS` that each training step applies, in this order;
            for scoring the images are used as they are.
    """

    pixels: Tensor | FilePixels
    labels: Tensor | None = None
    pixel_max: int = 0
    binarization_seed: int | None = None
    factors: Tensor | None = None
    stream_device: torch.device | None = None
    on_progress: Callable[[float], None] | None = field(default=None, compare=False, repr=False)
    augment: tuple[str, ...] = ()
    names: tuple[str, ...] | None = None
    classes: tuple[str, ...] | None = None
    value_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.pixel_max == 0:
            object.__setattr__(self, "pixel_max", 255 if self.pixels.dtype == torch.uint8 else 1)

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def image_shape(self) -> list[int]:
        """`[channels, height, width]`."""
        return list(self.pixels.shape[1:])

    @property
    def is_dynamic(self) -> bool:
        """Whether each training step draws every pixel."""
        return self.binarization_seed is not None

    def is_binary(self) -> bool:
        """Whether every pixel is black or white: then a Bernoulli is a probability of the images."""
        return all(bool(((part == 0) | (part == self.pixel_max)).all()) for part in self.pixel_chunks())

    @property
    def kind(self) -> str:
        """`binary`, `greyscale`, `colour` (three channels), or `continuous` for other floats in [0, 1]."""
        if self.is_binary():
            return "binary"
        if self.image_shape[0] == 3:
            return "colour"
        return "continuous" if self.pixels.is_floating_point() else "greyscale"

    @property
    def device(self) -> torch.device:
        """Where batches are."""
        return self.stream_device or self.pixels.device

    @property
    def is_resident(self) -> bool:
        """Whether the pixels are in the memory of the device that uses them."""
        return self.stream_device is None

    def binarize(self, seed: int) -> "ImageSet":
        """Draw every pixel once, 1 with its grey value as probability; the same on every device.

        Args:
            seed: Of the draws.
        """
        drawn = torch.empty(self.pixels.shape, dtype=torch.uint8, device=self.pixels.device)
        noise = torch.Generator().manual_seed(seed)
        start = 0
        for part in self.pixel_chunks():
            drawn[start : start + len(part)] = torch.bernoulli(self.to_float(part.cpu()), generator=noise)
            start += len(part)
        return replace(self, pixels=drawn, pixel_max=1, binarization_seed=None)

    def mean(self) -> Tensor:
        """The mean image, `[channels, height, width]` in [0, 1], summed in float64."""
        total = torch.zeros(self.image_shape, dtype=torch.float64)
        for batch in self.chunks():
            total += batch.images.double().sum(dim=0).cpu()
        return (total / len(self)).float()

    def with_fixed_binarization(self) -> "ImageSet":
        """The set as it is scored: pixels drawn once where binarisation is dynamic, else the set itself."""
        return self if self.binarization_seed is None else self.binarize(self.binarization_seed)

    def stream_to(self, device: torch.device) -> "ImageSet":
        """The same set, its pixels left where they are and its batches copied to a device."""
        labels = None if self.labels is None else self.labels.to(device)
        return replace(self, labels=labels, stream_device=device)

    def to(self, device: torch.device) -> "ImageSet":
        """Copy the unscaled pixels and the labels to a device."""
        labels = None if self.labels is None else self.labels.to(device)
        return replace(self, pixels=self.pixels.to(device), labels=labels, stream_device=None)

    def subset(self, indices: Tensor) -> "ImageSet":
        """Select the images at these positions, in this order."""
        labels = None if self.labels is None else self.labels[indices.to(self.labels.device)]
        factors = None if self.factors is None else self.factors[indices.to(self.factors.device)]
        names = None if self.names is None else tuple(self.names[index] for index in indices.tolist())
        pixels = self.pixels[indices.to(self.pixels.device)]
        return replace(self, pixels=pixels, labels=labels, factors=factors, names=names)

    def take(self, count: int | None) -> "ImageSet":
        """Select the first `count` images; None selects all."""
        if count is None or count >= len(self):
            return self
        return self.subset(torch.arange(count, device=self.device))

    def without_labels(self) -> "ImageSet":
        """The same images for a model that uses no labels: none are copied with a batch."""
        return replace(self, labels=None)

    def random_subset(self, count: int | None) -> "ImageSet":
        """Draw `count` images without replacement, in the order of the set; the set itself if it has no more.

        The draw depends on the size of the set and on `count` alone, so every run on the data has the same images.
        """
        if count is None or count >= len(self):
            return self
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(_SUBSET_SEED))
        return self.subset(order[:count].sort().values)

    def batch(self, positions: Tensor | slice = slice(None)) -> Batch:
        """The images at these positions, scaled, with their labels."""
        if isinstance(positions, Tensor):
            pixels = self.pixels.index_select(0, positions.to(self.pixels.device))
            labels = None if self.labels is None else self.labels.index_select(0, positions.to(self.labels.device))
        else:
            pixels = self.pixels[positions]
            labels = None if self.labels is None else self.labels[positions]
        return Batch(self.to_float(pixels.to(self.device)), labels)

    def to_float(self, pixels: Tensor) -> Tensor:
        """Scale raw pixels by `pixel_max`: float32 in [0, 1], a copy."""
        return pixels.div(self.pixel_max)

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """All images in order, in batches of at most `batch_size`, with a report after each."""
        for start in range(0, len(self), batch_size):
            yield self.batch(slice(start, start + batch_size))
            self.report(min(1.0, (start + batch_size) / len(self)))

    def chunks(self) -> Iterator[Batch]:
        """All images in order, in batches that take little memory whatever their size."""
        return self.batches(self._chunk_size())

    def pixel_chunks(self) -> Iterator[Tensor]:
        """All pixels in order, unscaled, in such batches."""
        step = self._chunk_size()
        return (self.pixels[start : start + step] for start in range(0, len(self), step))

    def _chunk_size(self) -> int:
        return min(_MAX_CHUNK_IMAGES, max(1, _MAX_CHUNK_VALUES // max(1, prod(self.image_shape))))

    def report(self, share: float) -> None:
        """Report the share of the work done, from 0 to 1; `batches` does so after every batch."""
        if self.on_progress is not None:
            self.on_progress(share)
