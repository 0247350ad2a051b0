"""One optimizer step, and the buffer of an epoch's losses."""

import logging
from math import isfinite

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm
from torch.optim import Optimizer

from vae_exp.data.augmentation import Augmentation
from vae_exp.data.batch_loader import BatchLoader
from vae_exp.data.images import Batch
from vae_exp.distributions.sampling import bernoulli, draw_sharded, sharded, standard_normal
from vae_exp.engine.distributed import DistributedContext
from vae_exp.engine.ema import ExponentialMovingAverage
from vae_exp.engine.flat_parameter import flat_parameter
from vae_exp.engine.protocols import UpdatedAfterStep
from vae_exp.errors import UserError
from vae_exp.model.vae import VAE
from vae_exp.objective.loss_terms import Loss

_log = logging.getLogger(__name__)
TERMS = ("loss", "distortion", "rate")


class EpochLossBuffer:
    """A row per step: the sums over its batch of loss, distortion and rate, in nats; stays on the device.

    Args:
        steps: Steps of an epoch.
        batch_index: Which of them the loader has handed out the batch of, int64 `[1]`, on the device.
    """

    def __init__(self, steps: int, batch_index: Tensor) -> None:
        self.rows = torch.zeros(steps, len(TERMS), device=batch_index.device)
        self._batch_index = batch_index

    def start_epoch(self, rows: Tensor | None = None) -> None:
        """Clear all rows; `rows` are those of the steps before an interruption."""
        self.rows.zero_()
        if rows is not None:
            self.rows[: len(rows)].copy_(rows)

    def append(self, sums: Tensor) -> None:
        """Add the sums of a step, `[3]`; device work alone, so that a CUDA graph can contain it."""
        self.rows.index_copy_(0, self._batch_index, sums.unsqueeze(0))

    def extend(self, sums: Tensor, done: int) -> None:
        """Add the sums of several steps, `[steps, 3]`, after `done` others."""
        self.rows[done : done + len(sums)].copy_(sums)

    def totals(self) -> Tensor:
        """The sums over all steps so far: `[3]`, summed in float64 on the CPU."""
        return self.rows.cpu().double().sum(dim=0)

    def first_non_finite(self) -> tuple[int, str, float] | None:
        """The first step with a term that is not finite, counted from 0, that term and its value.

        It waits for the device. The loss itself is named only where distortion and rate are finite.
        """
        for step, row in enumerate(self.rows.tolist()):
            for term, value in sorted(zip(TERMS, row, strict=True), key=lambda pair: pair[0] == "loss"):
                if not isfinite(value):
                    return step, term, value
        return None


class NonFiniteLossError(Exception):
    """A loss that is not finite, detected before it reached the weights; the buffer of the epoch has its terms."""


class ModelWithLoss(nn.Module):
    """A model and its loss as one module, which DDP and the compiler can wrap."""

    def __init__(self, vae: VAE, loss: Loss) -> None:
        super().__init__()
        self.vae = vae
        self.loss = loss

    def forward(
        self, images: Tensor, generator: torch.Generator, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Images `[batch, *image_shape]` with their labels → loss, distortion, rate, each `[batch]`, in nats."""
        terms = self.loss(self.vae, Batch(images, labels), generator)
        return terms.loss, terms.distortion, terms.rate


class TrainStep:
    """Trains the model on the next batch of the loader; device work alone, so that a CUDA graph can contain it.

    Args:
        model_with_loss: Gives the terms of each image, `[batch]`; a `ModelWithLoss`, wrapped or compiled or not.
        parameters: The parameters that the optimizer trains.
        optimizer: The optimizer of these parameters.
        loader: The source of the images.
        generator: The source of all noise.
        loss_buffer: Receives the sums over each batch.
        reduction: Whether the `sum` or the `mean` over the batch is differentiated.
        max_grad_norm: The norm that the whole gradient is clipped to (Pascanu, Mikolov & Bengio 2013); None for no
            clipping.
        dynamic_binarization: Whether each batch is binarized with new draws.
        ema: Updated after every step; None for no average.
        dist: The processes that share a batch.
        augment: Changes the images of each batch by draws of the generator; None leaves them.
    """

    def __init__(
        self,
        *,
        model_with_loss: nn.Module,
        parameters: list[nn.Parameter],
        optimizer: Optimizer,
        loader: BatchLoader,
        generator: torch.Generator,
        loss_buffer: EpochLossBuffer,
        reduction: str,
        max_grad_norm: float | None,
        dynamic_binarization: bool,
        ema: ExponentialMovingAverage | None,
        dist: DistributedContext,
        augment: Augmentation | None = None,
    ) -> None:
        self.model_with_loss = model_with_loss
        self.optimizer = optimizer
        self.loader = loader
        self.generator = generator
        self.loss_buffer = loss_buffer
        self.parameters = parameters
        self._flat = flat_parameter(optimizer)
        self.reduction = reduction
        self.max_grad_norm = max_grad_norm
        self.last_grad_norm = torch.zeros((), device=loss_buffer.rows.device)
        self.augment = augment
        self.dynamic_binarization = dynamic_binarization
        self._ema = ema
        self._dist = dist
        self._updated_modules = [
            module
            for module in model_with_loss.modules()
            if isinstance(module, UpdatedAfterStep) and not _is_frozen(module)
        ]
        self._weights: dict[int, Tensor] = {}
        self._on_host = loss_buffer.rows.device.type == "cpu"

    def __call__(self, size: int) -> Tensor:
        """One step on a batch of `size` images, of all processes together; the loader has prefetched it.

        Returns:
            The sums over the batch of loss, distortion and rate, `[3]`, in nats.

        Raises:
            NonFiniteLossError: on the CPU, where reading the loss costs nothing, before it reaches the weights.
        """
        local_size = self._dist.local_batch_size(size)
        batch = self.loader.next_batch(local_size)
        images = batch.images
        with sharded(self._dist.noise_shard(size)):
            if self.augment is not None:
                images = self.augment(images, self.generator)
            if self.dynamic_binarization:
                images = bernoulli(images, self.generator)
            loss, distortion, rate = self.model_with_loss(images, self.generator, batch.labels)
        dtype = self.loss_buffer.rows.dtype
        sums = torch.stack([term.detach().to(dtype) for term in (loss, distortion, rate)]).sum(dim=1)
        self._dist.all_reduce_sum(sums)
        self.loss_buffer.append(sums)
        if self._on_host and not isfinite(sums[0].item()):
            raise NonFiniteLossError
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward(self._image_weights(size, loss))
        if self._flat is not None:
            self._flat.gather_gradients()
        if self.max_grad_norm is not None:
            whole = self.parameters if self._flat is None else [self._flat]
            self.last_grad_norm.copy_(clip_grad_norm_(whole, self.max_grad_norm))
        if self._flat is None:
            self.optimizer.step()
        else:
            self._flat.step(self.optimizer)
        for module in self._updated_modules:
            module.after_step(self.generator, self._dist.noise_shard(size), self._dist.all_reduce_sum)
        if self._ema is not None:
            self._ema.update()
        return sums

    def grad_norm(self) -> Tensor:
        """The norm of the whole gradient of the last step, before it was clipped; a scalar on the device."""
        gradients = [weight.grad for weight in self.parameters if weight.grad is not None]
        if self.max_grad_norm is None and gradients:
            self.last_grad_norm.copy_(get_total_norm(gradients))
        return self.last_grad_norm

    def _image_weights(self, size: int, loss: Tensor) -> Tensor:
        """The weight of each image in the differentiated loss, `[batch]`; DDP averages over processes."""
        if size not in self._weights:
            weight = self._dist.world_size / (size if self.reduction == "mean" else 1)
            self._weights[size] = torch.full_like(loss, weight)
        return self._weights[size]


def _is_frozen(module: nn.Module) -> bool:
    """Whether it has parameters, none of which is trained."""
    trained = [parameter.requires_grad for parameter in module.parameters()]
    return bool(trained) and not any(trained)


def resolve_execution_mode(requested: str, device: torch.device, dist: DistributedContext) -> str:
    """`eager`, `graph` or `compile`; `auto` is a CUDA graph where one can be captured.

    Raises:
        UserError: if `graph` is requested where none can be captured.
    """
    if requested == "auto":
        return "graph" if device.type == "cuda" and dist.world_size == 1 else "eager"
    if requested == "graph" and device.type != "cuda":
        raise UserError(f"trainer.execution=graph needs a CUDA device, not {device}; use auto, eager or compile.")
    if requested == "graph" and dist.world_size > 1:
        raise UserError(
            "trainer.execution=graph works in one process; use auto, eager or compile with trainer=ddp."
        )
    return requested


def compile_module(module: nn.Module) -> nn.Module:
    """The module compiled by torch; the first steps take the seconds to a minute that this needs."""
    from torch._dynamo.decorators import skip  # takes a second to import

    for function in (standard_normal, draw_sharded):  # the compiler cannot trace draws from an explicit generator
        skip(function)
    _log.info("trainer.execution=compile: the first step of each batch size compiles, which takes a while.")
    return torch.compile(module)  # type: ignore[return-value]


def compiler_error(error: BaseException) -> UserError | None:
    """An error with a remedy for a model that torch cannot compile; None for any other error."""
    if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return None
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return UserError(
        f"trainer.execution=compile: torch cannot compile this model here: {reason}; use trainer.execution=eager."
    )
