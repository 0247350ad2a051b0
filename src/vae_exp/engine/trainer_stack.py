"""Several trainers whose steps are made as one."""

from collections.abc import Sequence
from contextlib import ExitStack
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from vae_exp.data.batch_loader import DeviceLoader
from vae_exp.distributions.sampling import Draw, NoiseTape, bernoulli
from vae_exp.engine.shutdown import GracefulShutdown
from vae_exp.engine.stacked_weights import StackedOptimizer, StackedWeights
from vae_exp.engine.train_step import ModelWithLoss
from vae_exp.engine.trainer import Trainer
from vae_exp.model.vae import VAE
from vae_exp.objective.loss_terms import Loss
from vae_exp.objective.schedules import ScheduledValue

class TrainerStack:
    """Makes the steps of trainers that differ in seed, sizes, options of the optimizer and scalars of the loss.

    Each epoch it takes the weights and the optimizer's state of all members, padded with zeros to the sizes of the
    template, trains them with one batched step after another, and gives them back: between epochs a member is a
    trainer like any other. Each draws its own order and noise from its own generators, as it would alone.

    Args:
        template: A model of the largest sizes, on the device of the members; its own weights are not used.
    """

    def __init__(self, template: VAE) -> None:
        self._template = template
        self._draws: dict[tuple[object, int], list[Draw]] = {}
        for module in template.modules():
            if type(module) is nn.Linear and module.bias is not None:
                module.__class__ = _StackedLinear

    def train_epoch(self, members: Sequence[Trainer | None], shutdown: GracefulShutdown) -> list[Trainer]:
        """Run the steps that are due in all members, which are at a pause of `paused_fit` at the same batch.

        The same places give the same bits, whatever is in the others: None stands for a member that is not trained.

        Returns:
            The members whose loss is no longer finite; their weights are those of the epoch before.

        Raises:
            Interrupted: on Ctrl-C or SIGTERM, after a step; the members have what they were trained to.
        """
        present = [member for member in members if member is not None]
        epoch = _StackedEpoch(self, members)
        done = present[0].state.batch_in_epoch
        rows: list[Tensor] = []
        try:
            with ExitStack() as phases:
                for member in present:
                    phases.enter_context(member.training_phase())
                for size in present[0].due_sizes:
                    shutdown.raise_if_requested()
                    for member in present:
                        member.schedules.begin_step(member.state.global_step)
                    rows.append(epoch.step(size))
                    for member in present:
                        member.count_step()
        finally:
            diverged = epoch.give_back(torch.stack(rows), done) if rows else []
        return diverged

    def draws(self, trainer: Trainer, size: int, model: VAE | None = None) -> list[Draw]:
        """The draws of a step of one member on its own, by function and shape.

        Args:
            trainer: The member.
            size: Of the batch.
            model: One to use in place of the member's; None uses that.
        """
        key = model or trainer, size
        if key not in self._draws:
            step, tape = trainer.train_step, NoiseTape(device=trainer.loss_buffer.rows.device)
            batch = trainer.example(size)
            with torch.no_grad():
                images = bernoulli(batch.images, tape) if step.dynamic_binarization else batch.images
                ModelWithLoss(model or trainer.vae, trainer.loss)(images, tape, batch.labels)
            self._draws[key] = tape.noted
        return self._draws[key]


class _StackedEpoch:
    """An epoch of a stack: its weights, optimizer, batches and noise."""

    def __init__(self, stack: TrainerStack, members: Sequence[Trainer | None]) -> None:
        self._stack, self._members = stack, members
        first = next(member for member in members if member is not None)
        self._first_member, self._first = first, first.train_step
        self._losses = [(member or first).loss for member in members]
        models = [None if member is None else member.vae for member in members]
        self._weights = StackedWeights(stack._template, models)
        steps = [None if member is None else member.train_step for member in members]
        self._optimizer = StackedOptimizer(
            self._weights, models, [None if step is None else step.optimizer for step in steps]
        )
        self._batches = _StackedBatches(members)
        device = first.loss_buffer.rows.device
        self._units = _units_in_use(stack._template, models, device)
        self._masks = self._weights.masks()
        self._noise: dict[int, list[Tensor]] = {}
        self._seeds: dict[int, Tensor] = {}
        self._terms = vmap(self._member_terms, in_dims=(0, 0, 0, 0, 0, 0), randomness="error")

    def step(self, size: int) -> Tensor:
        """One step; the sums over the batch of loss, distortion and rate, `[3, members]`, in nats."""
        images, labels = self._batches.next_batch(size)
        noise = self._draw(size)
        loss, distortion, rate = self._terms(
            self._weights.values, _scalars(self._losses), self._units, images, [] if labels is None else [labels], noise
        )
        self._stack._template.units_in_use = None
        sums = torch.stack([loss.detach(), distortion.detach(), rate.detach()]).sum(dim=-1)
        for value in self._weights.values.values():
            value.grad = None
        loss.backward(self._seed(size, loss))
        gradients = [value.grad for value in self._weights.trained.values() if value.grad is not None]
        if self._masks is not None:
            torch._foreach_mul_(gradients, self._masks)
        if self._first.max_grad_norm is not None:
            self._clip(gradients, self._first.max_grad_norm)
        self._optimizer.step()
        return sums

    def give_back(self, rows: Tensor, done: int) -> list[Trainer]:
        """Give the members what they were trained to; those whose loss is no longer finite only their losses."""
        is_finite = rows.isfinite().all(dim=1).all(dim=0).tolist()
        gradients = [value.grad for value in self._weights.trained.values() if value.grad is not None]
        norms = self._norms(gradients) if self._first.max_grad_norm is None else None
        diverged = []
        for index, member in enumerate(self._members):
            if member is None:
                continue
            member.loss_buffer.extend(rows[:, :, index], done)
            if not is_finite[index]:
                diverged.append(member)
                continue
            self._weights.give_back(index)
            self._optimizer.give_back(index)
            if norms is not None:
                member.train_step.last_grad_norm.copy_(norms[index])
        return diverged

    def _member_terms(
        self,
        weights: dict[str, Tensor],
        scalars: dict[str, Tensor],
        units: Tensor,
        images: Tensor,
        labels: list[Tensor],
        noise: list[Tensor],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The terms of one member's loss, each `[batch]`, in nats; vmapped over the members."""
        template, loss, tape = self._stack._template, copy(self._losses[0]), NoiseTape(noise)
        for name, value in scalars.items():
            setattr(loss, name, value)
        template.units_in_use = units  # until the end of the step
        if self._first.dynamic_binarization:
            images = bernoulli(images, tape)
        module = ModelWithLoss(template, loss)
        values = {f"vae.{name}": value for name, value in weights.items()}
        return functional_call(module, values, (images, tape, *labels))

    @torch.no_grad()
    def _draw(self, size: int) -> list[Tensor]:
        """The noise of a step, each member's from its own generator and in its own shapes, padded with zeros."""
        if size not in self._noise:
            largest = self._stack.draws(self._first_member, size, self._stack._template)
            count, device = len(self._members), self._units.device
            self._noise[size] = [torch.zeros(count, *shape, device=device) for _, shape in largest]
        slabs = self._noise[size]
        for index, member in enumerate(self._members):
            if member is None:
                continue
            generator = member.train_step.generator
            for slab, (draw, shape) in zip(slabs, self._stack.draws(member, size), strict=True):
                row = slab[index]
                for axis, length in enumerate(shape):
                    row = row.narrow(axis, 0, length) if row.shape[axis] != length else row
                row.copy_(draw(shape, generator=generator, device=slab.device))
        return slabs

    def _seed(self, size: int, loss: Tensor) -> Tensor:
        if size not in self._seeds:
            weight = 1 / size if self._first.reduction == "mean" else 1.0
            self._seeds[size] = torch.full_like(loss, weight)
        return self._seeds[size]

    def _norms(self, gradients: Sequence[Tensor]) -> Tensor:
        """The norm of the whole gradient of each member, `[members]`."""
        norms = [torch.linalg.vector_norm(gradient.reshape(len(gradient), -1), dim=1) for gradient in gradients]
        return torch.linalg.vector_norm(torch.stack(norms), dim=0)

    def _clip(self, gradients: Sequence[Tensor], largest: float) -> None:
        """Clip as `torch.nn.utils.clip_grad_norm_` does, member by member."""
        norms = self._norms(gradients)
        shares = (largest / (norms + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(shares.view(-1, *[1] * (gradient.dim() - 1)))
        for member, norm in zip(self._members, norms, strict=True):
            if member is not None:
                member.train_step.last_grad_norm.copy_(norm)


class _StackedBatches:
    """The batches of all members, `[members, batch, *image_shape]`: one gather where they share their images."""

    def __init__(self, members: Sequence[Trainer | None]) -> None:
        self._members = members
        self._steps = [member.train_step for member in members if member is not None]
        loaders = [step.loader for step in self._steps]
        first = loaders[0]
        self._shared = first.images if isinstance(first, DeviceLoader) else None
        for loader in loaders:
            if not isinstance(loader, DeviceLoader) or loader.images.pixels is not first.images.pixels:
                self._shared = None
        if self._shared is not None:
            rows = iter(loaders)
            order = [
                torch.zeros_like(first.batches) if member is None else next(rows).batches for member in members
            ]
            self._order = torch.stack(order, dim=1)
            done = next(member.state.batch_in_epoch for member in members if member is not None)
            self._next = done

    def next_batch(self, size: int) -> tuple[Tensor, Tensor | None]:
        """The next images of each member, with their labels."""
        if self._shared is not None:
            rows = self._order[self._next, :, :size].reshape(-1)
            self._next += 1
            batch = self._shared.batch(rows)
            count = len(self._members)
            images = batch.images.unflatten(0, (count, size))
            labels = None if batch.labels is None else batch.labels.unflatten(0, (count, size))
        else:
            batches = []
            for member in self._members:
                if member is not None:
                    member.train_step.loader.prefetch()
                batches.append(None if member is None else member.train_step.loader.next_batch(size))
            first = next(batch for batch in batches if batch is not None)
            images = torch.stack(
                [torch.zeros_like(first.images) if batch is None else batch.images.clone() for batch in batches]
            )
            labels = None
            if first.labels is not None:
                labels = torch.stack([(batch or first).labels for batch in batches])
        augment = self._steps[0].augment
        if augment is not None:
            images = torch.stack(
                [
                    image if member is None else augment(image, member.train_step.generator)
                    for image, member in zip(images, self._members, strict=True)
                ]
            )
        return images, labels


def _scalars(losses: Sequence[Loss]) -> dict[str, Tensor]:
    """The numbers of the losses that differ or follow a schedule, by name: `[members]`."""
    scalars: dict[str, Tensor] = {}
    for name, value in vars(losses[0]).items():
        values = [vars(loss)[name] for loss in losses]
        if isinstance(value, ScheduledValue | float) and (
            any(isinstance(other, ScheduledValue) for other in values) or len(set(values)) > 1
        ):
            device = next((v.value.device for v in values if isinstance(v, ScheduledValue)), None)
            scalars[name] = torch.stack(
                [v.value if isinstance(v, ScheduledValue) else torch.tensor(v, device=device) for v in values]
            )
    return scalars


def _units_in_use(template: VAE, models: Sequence[VAE | None], device: torch.device) -> Tensor:
    """1 for the latent units of each model, 0 for the padding: `[models, largest latent_dim]`."""
    largest = template.prior().event_shape[0]
    units = torch.ones(len(models), largest, device=device)
    for row, model in zip(units, models, strict=True):
        if model is not None:
            row[model.prior().event_shape[0] :] = 0
    return units


class _StackedLinear(nn.Linear):
    """A linear layer of stacked weights: one batched product, with its bias."""

    def forward(self, inputs: Tensor) -> Tensor:
        return _Linear.apply(inputs, self.weight, self.bias)  # type: ignore[no-any-return]


class _Linear(torch.autograd.Function):
    """x Wᵀ + b, which `torch.vmap` would take five operations for instead of one."""

    @staticmethod
    def forward(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return nn.functional.linear(inputs, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int, ...], inputs: Tensor, weight: Tensor, bias: Tensor
    ) -> tuple[Tensor, int]:
        inputs = inputs.movedim(in_dims[0], 0)
        rows = inputs.flatten(1, -2)
        return _BatchedLinear.apply(rows, weight, bias).unflatten(1, inputs.shape[1:-1]), 0


class _BatchedLinear(torch.autograd.Function):
    """x Wᵀ + b for `[members, rows, inputs]` and `[members, outputs, inputs]`."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        return torch.baddbmm(bias.unsqueeze(1), inputs, weight.mT)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        inputs, weight = ctx.saved_tensors
        by_inputs, by_weight, by_bias = ctx.needs_input_grad
        return (
            torch.bmm(gradient, weight) if by_inputs else None,
            torch.bmm(gradient.mT, inputs) if by_weight else None,
            gradient.sum(dim=1) if by_bias else None,
        )
