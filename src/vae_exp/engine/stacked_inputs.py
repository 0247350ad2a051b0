"""The batches and the noise of several trainers as one: `[members, batch, …]`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vae_exp.data.batch_loader import DeviceLoader
from vae_exp.distributions.sampling import Draw, NoiseTape, bernoulli
from vae_exp.engine.train_step import ModelWithLoss
from vae_exp.engine.trainer import Trainer
from vae_exp.model.vae import VAE


class StackedBatches:
    """The batches of an epoch of all members, each in its own order; one gather where they share their images.

    Args:
        members: At the same batch of their epochs; zeros stand for the images of None.
    """

    def __init__(self, members: Sequence[Trainer | None]) -> None:
        self._members = members
        loaders = [None if member is None else member.train_step.loader for member in members]
        resident = [loader for loader in loaders if isinstance(loader, DeviceLoader)]
        self._first = next(member for member in members if member is not None)
        self._next = self._first.state.batch_in_epoch
        self._order: Tensor | None = None
        is_shared = len({id(loader.images.pixels) for loader in resident}) == 1
        if is_shared and len(resident) == sum(loader is not None for loader in loaders):
            self._images, blank = resident[0].images, torch.zeros_like(resident[0].batches)
            rows = [loader.batches if isinstance(loader, DeviceLoader) else blank for loader in loaders]
            self._order = torch.stack(rows, dim=1)

    def next_batch(self, size: int) -> Tensor:
        """The next images of all members, `[members, size, *image_shape]`."""
        if self._order is not None:
            rows = self._order[self._next, :, :size].reshape(-1)
            self._next += 1
            images = self._images.batch(rows).images.unflatten(0, (len(self._members), size))
        else:
            images = self._gather(size)
        return images if self._first.train_step.augment is None else self._augmented(images)

    def _gather(self, size: int) -> Tensor:
        gathered: list[Tensor | None] = []
        for member in self._members:
            if member is not None:
                member.train_step.loader.prefetch()
            gathered.append(None if member is None else member.train_step.loader.next_batch(size).images)
        blank = torch.zeros_like(next(images for images in gathered if images is not None))
        return torch.stack([blank if images is None else images for images in gathered])

    def _augmented(self, images: Tensor) -> Tensor:
        rows = []
        for member, own in zip(self._members, images, strict=True):
            step = None if member is None else member.train_step
            rows.append(own if step is None or step.augment is None else step.augment(own, step.generator))
        return torch.stack(rows)


class StackedNoise:
    """The noise of the steps of all members, each from its own generator and in its own shapes, padded with zeros.

    Args:
        template: A model of the largest sizes.
    """

    def __init__(self, template: VAE) -> None:
        self._template = template
        self._draws: dict[tuple[object, int], list[Draw]] = {}
        self._padded: dict[tuple[int, int], list[Tensor]] = {}

    @torch.no_grad()
    def draw(self, members: Sequence[Trainer | None], size: int) -> list[Tensor]:
        """The draws of a step on batches of `size`, valid until the next: `[members, *largest shape]` each."""
        first = next(member for member in members if member is not None)
        key = len(members), size
        if key not in self._padded:
            device = first.loss_buffer.rows.device
            shapes = [shape for _, shape in self._draws_of(first, size, self._template)]
            self._padded[key] = [torch.zeros(len(members), *shape, device=device) for shape in shapes]
        for index, member in enumerate(members):
            if member is None:
                continue
            draws = self._draws_of(member, size, member.vae)
            for padded, (draw, shape) in zip(self._padded[key], draws, strict=True):
                noise = draw(shape, generator=member.train_step.generator, device=padded.device)
                padded[index][tuple(slice(length) for length in shape)] = noise
        return self._padded[key]

    def _draws_of(self, member: Trainer, size: int, model: VAE) -> list[Draw]:
        """The draws of a step of one member with a model, by function and shape."""
        if (model, size) not in self._draws:
            tape, batch = NoiseTape(device=member.loss_buffer.rows.device), member.example(size)
            images = bernoulli(batch.images, tape) if member.train_step.dynamic_binarization else batch.images
            ModelWithLoss(model, member.loss)(images, tape)
            self._draws[model, size] = tape.noted
        return self._draws[model, size]
