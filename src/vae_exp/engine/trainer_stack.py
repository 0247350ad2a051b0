"""Several trainers whose steps are made as one."""

from collections.abc import Sequence
from contextlib import ExitStack
from copy import copy

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from vae_exp.distributions.leading_axis import vmapped
from vae_exp.distributions.sampling import NoiseTape, bernoulli
from vae_exp.engine.shutdown import GracefulShutdown
from vae_exp.engine.stacked_inputs import StackedBatches, StackedNoise
from vae_exp.engine.stacked_linear import use_batched_products
from vae_exp.engine.stacked_weights import StackedOptimizer, StackedWeights
from vae_exp.engine.train_step import ModelWithLoss
from vae_exp.engine.trainer import Trainer
from vae_exp.errors import Interrupted
from vae_exp.model.vae import VAE
from vae_exp.objective.beta_vae import FreeBits
from vae_exp.objective.loss_terms import Loss
from vae_exp.objective.schedules import ScheduledValue


class TrainerStack:
    """Makes the steps of trainers that differ in seed, sizes, options of the optimizer and scalars of the loss.

    Neither model nor loss reads labels.

    Each epoch it takes the weights and the optimizer's state of all members, padded with zeros to the sizes of the
    template, trains them with one batched step after another, and gives them back: between epochs a member is a
    trainer like any other. Each draws its own order and noise from its own generators, as it would alone.

    Args:
        template: A model of the largest sizes, on the device of the members; its own weights are not used.
    """

    def __init__(self, template: VAE) -> None:
        self.template = template
        self.noise = StackedNoise(template)
        use_batched_products(template)

    def train_epoch(
        self, members: Sequence[Trainer | None], groups: Sequence[str], shutdown: GracefulShutdown
    ) -> list[Trainer]:
        """Run the steps that are due in all members, which are paused by `paused_fit` at the same batch.

        A member's numbers are the same to the bit whichever of the others are None, which are not trained.

        Args:
            members: Each in its place.
            groups: Of each member a word; neighbours of one word have the same options of the optimizer.
            shutdown: Notes Ctrl-C and SIGTERM.

        Returns:
            The members whose loss is no longer finite; their weights are those of the epoch before.

        Raises:
            Interrupted: on Ctrl-C or SIGTERM, after a step; the members have what they were trained to.
        """
        present = [member for member in members if member is not None]
        if not present[0].due_sizes:  # they were interrupted after the last step of the epoch
            return []
        epoch = StackedEpoch(self, members, groups)
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
        except Interrupted:
            if rows:
                epoch.give_back(torch.stack(rows), done)
            raise
        return epoch.give_back(torch.stack(rows), done)


class StackedEpoch:
    """An epoch of a stack: its weights, optimizer, batches and noise.

    Args:
        stack: The stack.
        members: Those that are trained, whose epochs have been started; None where one is not.
        groups: Of each member a word; neighbours of one word have the same options of the optimizer.
    """

    def __init__(self, stack: TrainerStack, members: Sequence[Trainer | None], groups: Sequence[str]) -> None:
        self._stack, self._members = stack, members
        first = next(member for member in members if member is not None)
        self._step, self._losses = first.train_step, [(member or first).loss for member in members]
        models = [None if member is None else member.vae for member in members]
        optimizers = [None if member is None else member.train_step.optimizer for member in members]
        self._weights = StackedWeights(stack.template, models)
        self._optimizer = StackedOptimizer(self._weights, models, optimizers, groups)
        self._batches = StackedBatches(members)
        device = first.loss_buffer.rows.device
        self._scalars = _scalars(self._losses, device)
        self._units = {}
        if isinstance(first.loss, FreeBits):
            self._units = {"units_in_use": _units_in_use(stack.template, models, device)}
        self._masks = self._weights.masks()
        self._image_weights: dict[int, Tensor] = {}
        self._terms = vmap(self._member_terms, randomness="error")

    def step(self, size: int) -> Tensor:
        """One step; the sums over the batch of loss, distortion and rate, `[3, members]`, in nats."""
        images, noise = self._batches.next_batch(size), self._stack.noise.draw(self._members, size)
        of_losses = {name: torch.stack(numbers) for name, numbers in self._scalars.items()} | self._units
        with vmapped():
            terms = self._terms(self._weights.values, of_losses, images, noise)
        sums = torch.stack([term.detach() for term in terms]).sum(dim=-1)
        for value in self._weights.values.values():
            value.grad = None
        loss: Tensor = terms[0]
        if size not in self._image_weights:
            self._image_weights[size] = torch.full_like(loss, 1 / size if self._step.reduction == "mean" else 1.0)
        loss.backward(self._image_weights[size])
        gradients = self._gradients()
        if self._masks is not None:
            torch._foreach_mul_(gradients, self._masks)
        if self._step.max_grad_norm is not None:
            self._clip(gradients, self._step.max_grad_norm)
        self._optimizer.step()
        return sums

    def give_back(self, rows: Tensor, done: int) -> list[Trainer]:
        """Give the members what they were trained to; those whose loss is no longer finite only their losses."""
        is_finite = rows.isfinite().all(dim=1).all(dim=0).tolist()
        norms = _norms(self._gradients()) if self._step.max_grad_norm is None else None
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
        self, weights: dict[str, Tensor], of_loss: dict[str, Tensor], images: Tensor, noise: list[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The terms of one member's loss, each `[batch]`, in nats; vmapped over the members."""
        loss, tape = copy(self._losses[0]), NoiseTape(noise)
        for name, value in of_loss.items():
            setattr(loss, name, value)
        if self._step.dynamic_binarization:
            images = bernoulli(images, tape)
        values = {f"vae.{name}": value for name, value in weights.items()}
        module = ModelWithLoss(self._stack.template, loss)
        terms: tuple[Tensor, Tensor, Tensor] = functional_call(module, values, (images, tape))
        return terms

    def _gradients(self) -> list[Tensor]:
        return [value.grad for value in self._weights.trained.values() if value.grad is not None]

    def _clip(self, gradients: Sequence[Tensor], largest: float) -> None:
        """Clip as `torch.nn.utils.clip_grad_norm_` does, member by member."""
        norms = _norms(gradients)
        shares = (largest / (norms + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(shares.view(-1, *[1] * (gradient.dim() - 1)))
        for member, norm in zip(self._members, norms, strict=True):
            if member is not None:
                member.train_step.last_grad_norm.copy_(norm)


def _norms(gradients: Sequence[Tensor]) -> Tensor:
    """The norm of the whole gradient of each member, `[members]`."""
    norms = [torch.linalg.vector_norm(gradient.reshape(len(gradient), -1), dim=1) for gradient in gradients]
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms), dim=0)
    return total


def _scalars(losses: Sequence[Loss], device: torch.device) -> dict[str, list[Tensor]]:
    """The numbers of the losses that differ, and those that schedules change in place, by name."""
    scalars: dict[str, list[Tensor]] = {}
    for name in vars(losses[0]):
        values = [vars(loss)[name] for loss in losses]
        is_scheduled = any(isinstance(value, ScheduledValue) for value in values)
        if is_scheduled or (isinstance(values[0], float) and len(set(values)) > 1):
            scalars[name] = [
                value.value if isinstance(value, ScheduledValue) else torch.tensor(value, device=device)
                for value in values
            ]
    return scalars


def _units_in_use(template: VAE, models: Sequence[VAE | None], device: torch.device) -> Tensor:
    """1 for the latent units of each model, 0 for the padding: `[models, largest latent_dim]`."""
    units = torch.ones(len(models), *template.prior().event_shape, device=device)
    for row, model in zip(units, models, strict=True):
        if model is not None:
            row[model.prior().event_shape[0] :] = 0
    return units
