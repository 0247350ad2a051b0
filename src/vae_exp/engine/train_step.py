"""One optimiser step: gather, forward, backward, update, record; nothing of it waits for the device."""

from collections.abc import Callable
from math import isfinite

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vae_exp.data.batch_loader import BatchLoader
from vae_exp.distributions.sampling import binarized, sharded
from vae_exp.engine.distributed import DistributedContext
from vae_exp.engine.ema import ExponentialMovingAverage
from vae_exp.engine.record import EpochLossBuffer
from vae_exp.model.vae import VAE
from vae_exp.objective.loss_terms import Loss

Score = Callable[..., tuple[Tensor, Tensor, Tensor]]


class NonFiniteLossError(Exception):
    """A loss that is not finite, seen before it reached the weights; the buffer of the epoch has its terms."""


class Scoring(nn.Module):
    """A model under a loss as one module, which DDP and the compiler can wrap."""

    def __init__(self, vae: VAE, loss: Loss) -> None:
        super().__init__()
        self.vae = vae
        self.loss = loss

    def forward(
        self, images: Tensor, generator: torch.Generator, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Images `[batch, *image_shape]`, of these classes → three tensors of shape `[batch]`, in nats."""
        with self.vae.given(labels):
            terms = self.loss(self.vae, images, generator)
        return terms.loss, terms.distortion, terms.rate


class TrainStep:
    """Called once per batch; it trains the model on the next images of the feed.

    Args:
        score: The model under its loss.
        parameters: What the optimiser trains.
        optimizer: Over these parameters.
        feed: Where images come from.
        noise: The source of all noise.
        record: Where the sums over each batch go.
        reduction: Whether the `sum` or the `mean` over the batch is differentiated.
        gradient_clip: The norm that the whole gradient is clipped to (Pascanu, Mikolov & Bengio 2013); None
            leaves it as it is.
        dynamic: Whether the pixels of every batch are drawn anew, black or white.
        labelled: Whether the model is told the classes of the images.
        average: Told of every step; may be None.
        team: The processes that share a batch.
    """

    def __init__(
        self,
        *,
        score: Score,
        parameters: list[nn.Parameter],
        optimizer: Optimizer,
        feed: BatchLoader,
        noise: torch.Generator,
        record: EpochLossBuffer,
        reduction: str,
        gradient_clip: float | None,
        dynamic: bool,
        labelled: bool,
        average: ExponentialMovingAverage | None,
        team: DistributedContext,
    ) -> None:
        self.score = score
        self.optimizer = optimizer
        self.feed = feed
        self.noise = noise
        self.record = record
        self._parameters = parameters
        self._reduction = reduction
        self._gradient_clip = gradient_clip
        self._dynamic = dynamic
        self._labelled = labelled
        self._average = average
        self._team = team
        self._on_host = record.rows.device.type == "cpu"

    def __call__(self, size: int) -> Tensor:
        """One step on a batch of `size` images, of all processes together.

        Returns:
            The sums over the batch of loss, distortion and rate, `[3]`, in nats.

        Raises:
            NonFiniteLossError: on the CPU, where looking costs nothing, before such a loss reaches the weights.
        """
        self.feed.prepare()
        return self.on_device(size)

    def on_device(self, size: int) -> Tensor:
        """What the device does in a step; a CUDA graph can hold it."""
        own = self._team.part(size)
        images = self.feed.images(own)
        labels = [self.feed.labels(own)] if self._labelled else []
        with sharded(self._team.shard(size)):
            if self._dynamic:
                images = binarized(images, self.noise)
            loss, distortion, rate = self.score(images, self.noise, *labels)
        kind = self.record.rows.dtype
        sums = torch.stack([each.detach().to(kind) for each in (loss, distortion, rate)]).sum(dim=1)
        self._team.sum(sums)
        self.record.add(sums)
        if self._on_host and not isfinite(sums[0].item()):
            raise NonFiniteLossError
        for each in self._parameters:
            each.grad = None
        loss.backward(loss.new_full((), self._scale(size)).expand_as(loss))
        if self._gradient_clip is not None:
            nn.utils.clip_grad_norm_(self._parameters, self._gradient_clip)
        self.optimizer.step()
        if self._average is not None:
            self._average.update()
        return sums

    def _scale(self, size: int) -> float:
        """The weight of an image in what is differentiated; DDP averages over processes."""
        return self._team.size / (size if self._reduction == "mean" else 1)
