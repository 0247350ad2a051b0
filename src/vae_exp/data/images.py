"""A set of images in memory, scaled to [0, 1] only when a batch is taken."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from vae_exp.model.vae import VAE

_SUBSET_SEED = 0
_DRAWN_AT_ONCE = 10_000  # bounds the float copy while pixels are drawn


@dataclass(frozen=True)
class ImageSet:
    """Images and, where there are any, their labels.

    Args:
        pixels: `[N, channels, height, width]`; integers from 0 to `pixel_max` as uint8, or float32 in [0, 1].
        labels: `[N]`, int64; None where the data have none.
        pixel_max: The integer that stands for white; by default 255 for uint8 pixels and 1 for float pixels.
        drawn_from: The seed from which whoever scores the set draws its pixels once (`settled`); a training
            step draws every pixel anew, black or white with its grey value as probability (Salakhutdinov &
            Murray 2008). None where the pixels are used as they are.
        factors: `[N, factors]`, int64: what an image was made from, such as shape and place; None where unknown.
        destination: The device that batches are taken to while the pixels stay where they are; None uses
            them in place.
        on_progress: Called by `report`; None where the progress is not shown.
    """

    pixels: Tensor
    labels: Tensor | None = None
    pixel_max: int = 0
    drawn_from: int | None = None
    factors: Tensor | None = None
    destination: torch.device | None = None
    on_progress: Callable[[float], None] | None = field(default=None, compare=False, repr=False)

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
    def dynamic(self) -> bool:
        """Whether a training step draws every pixel anew."""
        return self.drawn_from is not None

    def is_binary(self) -> bool:
        """Whether every pixel is black or white: then a Bernoulli likelihood is one of the images."""
        return bool(((self.pixels == 0) | (self.pixels == self.pixel_max)).all())

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
        """Where batches come out."""
        return self.destination or self.pixels.device

    @property
    def is_resident(self) -> bool:
        """Whether the pixels lie where they are used."""
        return self.destination is None

    def binarized(self, seed: int) -> "ImageSet":
        """The set with every pixel drawn once, 1 with its grey value as probability, whatever the device.

        Args:
            seed: The same seed draws the same pixels.
        """
        drawn = torch.empty_like(self.pixels, dtype=torch.uint8)
        noise = torch.Generator().manual_seed(seed)
        for start in range(0, len(self), _DRAWN_AT_ONCE):
            part = slice(start, start + _DRAWN_AT_ONCE)
            drawn[part] = torch.bernoulli(self.as_floats(self.pixels[part].cpu()), generator=noise)
        return replace(self, pixels=drawn, pixel_max=1, drawn_from=None)

    def mean(self) -> Tensor:
        """The mean image, `[channels, height, width]` in [0, 1], summed in float64."""
        total = torch.zeros(self.image_shape, dtype=torch.float64)
        for batch in self.batches(_DRAWN_AT_ONCE):
            total += batch.double().sum(dim=0).cpu()
        return (total / len(self)).float()

    def settled(self) -> "ImageSet":
        """The set as it is scored: a dynamic one is drawn once, any other is itself."""
        return self if self.drawn_from is None else self.binarized(self.drawn_from)

    def streamed_to(self, device: torch.device) -> "ImageSet":
        """The same set with its pixels left where they are, and batches taken to a device."""
        labels = None if self.labels is None else self.labels.to(device)
        return replace(self, labels=labels, destination=device)

    def to(self, device: torch.device) -> "ImageSet":
        """The same set on another device, still unscaled."""
        labels = None if self.labels is None else self.labels.to(device)
        return replace(self, pixels=self.pixels.to(device), labels=labels, destination=None)

    def subset(self, indices: Tensor) -> "ImageSet":
        """The images at these positions, in this order."""
        labels = None if self.labels is None else self.labels[indices.to(self.labels.device)]
        factors = None if self.factors is None else self.factors[indices.to(self.factors.device)]
        return replace(self, pixels=self.pixels[indices.to(self.pixels.device)], labels=labels, factors=factors)

    def first(self, count: int | None) -> "ImageSet":
        """The first `count` images, or all of them."""
        if count is None or count >= len(self):
            return self
        return self.subset(torch.arange(count, device=self.device))

    def random_subset(self, count: int | None) -> "ImageSet":
        """`count` images drawn without replacement, in the order of the set; the set itself if it has no more.

        The draw depends on the size of the set and on `count` alone, so every run on the data has the same images.
        """
        if count is None or count >= len(self):
            return self
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(_SUBSET_SEED))
        return self.subset(order[:count].sort().values)

    def scaled(self, positions: Tensor | slice = slice(None)) -> Tensor:
        """Images at these positions as float32 in [0, 1], `[len, channels, height, width]`."""
        if isinstance(positions, Tensor):
            found = self.pixels.index_select(0, positions.to(self.pixels.device))
        else:
            found = self.pixels[positions]
        return self.as_floats(found.to(self.device))

    def as_floats(self, pixels: Tensor) -> Tensor:
        """Pixels of this set's kind, scaled to float32 in [0, 1]; a copy."""
        return pixels.to(torch.float32, copy=True).div_(self.pixel_max)

    def labels_at(self, positions: slice) -> Tensor | None:
        """The labels at these positions, `[len]`; None where there are none."""
        return None if self.labels is None else self.labels[positions]

    def batches_for(self, vae: VAE, batch_size: int) -> Iterator[Tensor]:
        """All images in order, as `batches`; while one is worked on, the model is given its classes."""
        for start in range(0, len(self), batch_size):
            part = slice(start, start + batch_size)
            with vae.given(self.labels_at(part)):
                yield self.scaled(part)
            self.report(min(1.0, (start + batch_size) / len(self)))

    def report(self, share: float) -> None:
        """Show how much of the work on the set is done, from 0 to 1; `batches_for` does so after every batch."""
        if self.on_progress is not None:
            self.on_progress(share)

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        """All images in order, scaled, in batches of at most `batch_size`."""
        for start in range(0, len(self), batch_size):
            yield self.scaled(slice(start, start + batch_size))
