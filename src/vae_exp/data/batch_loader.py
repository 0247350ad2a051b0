"""Loaders that hand the batches of an epoch to the training step, from device or from host memory."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import psutil
import torch
from torch import Tensor

from vae_exp.data.images import Batch, ImageSet
from vae_exp.data.pixel_file import FilePixels
from vae_exp.errors import UserError

_SHARE_OF_FREE_MEMORY = 0.5
_MOST_FLOAT_BYTES, _SHARE_OF_FREE_FOR_FLOATS = 2**30, 0.1
_PREFETCHED = 2  # batches


class BatchLoader(Protocol):
    """Yields the batches of an epoch in a given order; all loaders yield the same batches.

    Attributes:
        batch_index: Which batch of the epoch was the last, int64 `[1]`, on the device; -1 before the first.
    """

    batch_index: Tensor

    def start_epoch(self, order: Tensor, sizes: list[int], done: int) -> None:
        """Start an epoch.

        Args:
            order: Positions of the epoch's images, int64, on the device.
            sizes: How many of them each batch takes.
            done: How many batches to skip, in an epoch that is resumed.
        """
        ...

    def prefetch(self) -> None:
        """Do the host's work before a step: none where the images are in device memory."""
        ...

    def next_batch(self, size: int) -> Batch:
        """The next `size` images with their labels; device work alone, which a CUDA graph can record."""
        ...


class DeviceLoader:
    """Gathers batches on the training device, which holds all images.

    Args:
        images: The training images, on the device.
        largest: Maximum batch size.

    Attributes:
        batches: Positions of the images of each batch of the epoch, `[batches, largest]`; the last row may end in
            positions of no batch.
        batch_index: As every loader has it.
    """

    def __init__(self, images: ImageSet, largest: int) -> None:
        self.images = images
        self._order = torch.zeros(len(images) + largest, dtype=torch.int64, device=images.device)
        self.batches = self._order[:0].view(0, largest)
        self.batch_index = torch.zeros(1, dtype=torch.int64, device=images.device)

    @cached_property
    def _floats(self) -> Tensor | None:
        """All images, scaled; from the first batch on, which the loaders of a stack do not make."""
        pixels = self.images.pixels
        if not isinstance(pixels, Tensor) or not _fits_as_floats(self.images):
            return None
        return self.images.to_float(pixels)

    def start_epoch(self, order: Tensor, sizes: list[int], done: int) -> None:
        """Copy the order into the tensor that a step reads a row of; all batches but the last have one size."""
        self._order[: len(order)].copy_(order)
        self.batches = self._order[: len(sizes) * sizes[0]].view(len(sizes), sizes[0])
        self.batch_index.fill_(done - 1)

    def prefetch(self) -> None:
        """Do nothing."""

    def next_batch(self, size: int) -> Batch:
        """Gather the next images, scaled."""
        self.batch_index += 1
        rows = self.batches.index_select(0, self.batch_index)[0, :size]
        if self._floats is None:
            return self.images.batch(rows)
        labels = self.images.labels
        return Batch(self._floats.index_select(0, rows), None if labels is None else labels.index_select(0, rows))


def _fits_as_floats(images: ImageSet) -> bool:
    """Whether a GPU can hold a scaled copy too, which saves a kernel in every step."""
    if images.device.type != "cuda" or images.pixels.dtype.is_floating_point:
        return False
    room = min(_MOST_FLOAT_BYTES, _SHARE_OF_FREE_FOR_FLOATS * (free_memory(images.device) or 0))
    return 4 * images.pixels.numel() <= room


@dataclass
class _Slot:
    """Pinned host memory of a batch, and the event of its copy to the device."""

    host: Tensor
    arrived: torch.cuda.Event | None


class PrefetchLoader:
    """Copies batches from host memory through pinned memory, some steps ahead of the device.

    Args:
        images: The training images, in host memory, to be used on `images.device`.
        largest: Maximum batch size.

    Attributes:
        batch_index: As every loader has it.
    """

    def __init__(self, images: ImageSet, largest: int) -> None:
        self._images = images
        self._device = images.device
        shape = (largest, *images.pixels.shape[1:])
        on_cuda = self._device.type == "cuda"
        self._slots = [
            _Slot(torch.empty(shape, dtype=images.pixels.dtype, pin_memory=on_cuda), None)
            for _ in range(_PREFETCHED + 1)
        ]
        self._batch = torch.empty(shape, dtype=images.pixels.dtype, device=self._device)
        labels = images.labels
        self._label_batch = None if labels is None else labels.new_empty(largest)
        self._order = torch.zeros(len(images), dtype=torch.int64, device=self._device)
        self.batch_index = torch.zeros(1, dtype=torch.int64, device=self._device)
        self._next = 0
        self._gatherer = ThreadPoolExecutor(1, thread_name_prefix="gather")
        self._ahead: list[tuple[Future[None], _Slot, int]] = []
        self._rows: Iterator[Tensor] = iter(())
        self._turn = 0

    def start_epoch(self, order: Tensor, sizes: list[int], done: int) -> None:
        """Copy the order to the host and gather the first batches."""
        for gathered, _, _ in self._ahead:
            gathered.result()
        self._ahead = []
        self._order[: len(order)].copy_(order)
        self.batch_index.fill_(done - 1)
        self._next = sum(sizes[:done])
        self._rows = iter(order.cpu()[: sum(sizes)].split(sizes)[done:])
        for _ in range(_PREFETCHED):
            self._gather_next()

    def prefetch(self) -> None:
        """Copy the next batch to the device and start to gather another."""
        gathered, slot, size = self._ahead.pop(0)
        gathered.result()
        self._batch[:size].copy_(slot.host[:size], non_blocking=True)
        if self._label_batch is not None and self._images.labels is not None:
            rows = self._order[self._next : self._next + size]
            torch.index_select(self._images.labels, 0, rows, out=self._label_batch[:size])
        self._next += size
        if self._device.type == "cuda":
            slot.arrived = torch.cuda.Event()
            slot.arrived.record(torch.cuda.current_stream(self._device))  # the current device may be another
        self._gather_next()

    def next_batch(self, size: int) -> Batch:
        """Scale the batch on the device."""
        self.batch_index += 1
        labels = None if self._label_batch is None else self._label_batch[:size]
        return Batch(self._images.to_float(self._batch[:size]), labels)

    def _gather_next(self) -> None:
        rows = next(self._rows, None)
        if rows is None:
            return
        slot = self._slots[self._turn % len(self._slots)]
        self._turn += 1
        gathered = self._gatherer.submit(self._gather, rows, slot)
        self._ahead.append((gathered, slot, len(rows)))

    def _gather(self, rows: Tensor, slot: _Slot) -> None:
        if slot.arrived is not None:
            slot.arrived.synchronize()  # its last batch must have been copied
        pixels, batch = self._images.pixels, slot.host[: len(rows)]
        if isinstance(pixels, FilePixels):
            pixels.read_into(batch, rows)
        else:
            torch.index_select(pixels, 0, rows, out=batch)


def make_loader(images: ImageSet, largest: int) -> BatchLoader:
    """Make the loader for where the pixels are."""
    return DeviceLoader(images, largest) if images.is_resident else PrefetchLoader(images, largest)


def move_to_device(images: ImageSet, device: torch.device, preload: str | bool) -> ImageSet:
    """Copy the images to a device, or leave them in host memory and stream their batches.

    Args:
        images: In host memory.
        device: Where they are used.
        preload: `True` moves them, `False` streams them, `auto` moves them where they take at most half of
            the memory that is free there, but leaves the pixels of a file that is used on the CPU in the file.

    Raises:
        UserError: if `preload` is True and there is not enough free memory.
    """
    free = free_memory(device)
    needed = images.pixels.nbytes
    is_copied = device.type != "cpu" or isinstance(images.pixels, FilePixels)
    if preload is True and is_copied and free is not None and needed > free:
        raise UserError(
            f"data.preload_to_device=true: the images take {needed / 2**20:.0f} MiB and {device} has "
            f"{free / 2**20:.0f} MiB free; use data.preload_to_device=auto or false."
        )
    if preload == "auto":
        fits = free is None or needed <= _SHARE_OF_FREE_MEMORY * free
        preload = not isinstance(images.pixels, FilePixels) if device.type == "cpu" else fits
    return images.to(device) if preload else images.stream_to(device)


def free_memory(device: torch.device) -> int | None:
    """Free memory in bytes: of the GPU, or of this machine; None where it is not known."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available) if device.type == "cpu" else None
