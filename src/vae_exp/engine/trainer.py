"""The training loop."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, nan
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from vae_exp.data.images import ImageSet
from vae_exp.engine.checkpoint import save_checkpoint
from vae_exp.engine.determinism import generator
from vae_exp.engine.early_stopping import Best
from vae_exp.engine.evaluating import run_evaluator, save_figures
from vae_exp.engine.interruption import InterruptGuard
from vae_exp.engine.progress import ProgressDisplay
from vae_exp.engine.protocols import Evaluator, Tracker
from vae_exp.errors import DivergedError, Interrupted
from vae_exp.model.vae import VAE
from vae_exp.objective.loss_terms import Loss, LossTerms
from vae_exp.run_directory import RunDirectory


@dataclass(frozen=True)
class Recipe:
    """How long and in which portions to train.

    Args:
        epochs: Passes over the training images.
        batch_size: Images per step; the last batch of an epoch may be short.
        reduction: Whether the loss that is differentiated is the `sum` or the `mean` over the batch.
        seed: Order, noise and evaluation draws follow from it.
        monitor: The metric whose lowest value makes a checkpoint the best.
        patience: Epochs without improvement of it after which to stop; None trains all epochs.
        min_delta: How much lower counts as an improvement for `patience`.
    """

    epochs: int
    batch_size: int
    reduction: str
    seed: int
    monitor: str
    patience: int | None
    min_delta: float


@dataclass
class Position:
    """How far a run has come."""

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    stopped_early: bool = False


class Trainer:
    """Trains a VAE, evaluates it as it goes, and keeps its checkpoints.

    Args:
        vae: The model, on the device of the images.
        loss: Scores a batch per example, in nats.
        optimizer: Over the model's parameters.
        scheduler: Stepped once an epoch; None keeps the learning rate.
        train: The training images.
        val: The held-out images; may be empty.
        evaluators: By name; each runs at its own cadence.
        trackers: Told of every epoch and every figure.
        directory: Where checkpoints and figures go.
        recipe: How long to train.
        identity: Plain values that every checkpoint carries along.
    """

    def __init__(
        self,
        *,
        vae: VAE,
        loss: Loss,
        optimizer: Optimizer,
        scheduler: LRScheduler | None,
        train: ImageSet,
        val: ImageSet,
        evaluators: Mapping[str, Evaluator],
        trackers: Sequence[Tracker],
        directory: RunDirectory,
        recipe: Recipe,
        identity: Mapping[str, Any],
    ) -> None:
        self.position = Position()
        self.best = Best(recipe.patience, recipe.min_delta)
        self.monitor = recipe.monitor
        self._vae = vae
        self._loss = loss
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._train, self._val = train, val
        self._evaluators = evaluators
        self._trackers = trackers
        self._directory = directory
        self._recipe = recipe
        self._identity = dict(identity)
        self._order = generator(recipe.seed, "shuffle", train.device)
        self._noise = generator(recipe.seed, "noise", train.device)

    def fit(self, guard: InterruptGuard, progress: ProgressDisplay) -> Position:
        """Train to the end of the recipe, or until patience runs out.

        Raises:
            Interrupted: on Ctrl-C or SIGTERM, after `last.pt` has been written.
            DivergedError: if the loss of an epoch is not finite; the last good checkpoint stands.
        """
        started = time.perf_counter()
        try:
            while self.position.epoch < self._recipe.epochs and not self.position.stopped_early:
                self._run_epoch(guard, progress)
                self.position.seconds = time.perf_counter() - started
        except Interrupted:
            if self._weights_are_finite():
                self._save("last")
            raise
        finally:
            self.position.seconds = time.perf_counter() - started
            progress.close()
        return self.position

    def finish(self, guard: InterruptGuard) -> None:
        """Run the evaluators that wait for the end of training; names that training reports stay its own.

        Raises:
            Interrupted: on Ctrl-C or SIGTERM, before the next evaluator.
        """
        waiting = [name for name, each in self._evaluators.items() if each.every == 0]
        metrics = self._evaluate(waiting, guard)
        if metrics:
            self.position.metrics = metrics | self.position.metrics
            for tracker in self._trackers:
                tracker.log({"epoch": self.position.epoch, **metrics}, self.position.step)

    def _run_epoch(self, guard: InterruptGuard, progress: ProgressDisplay) -> None:
        began = time.perf_counter()
        totals = self._train_epoch(guard, progress)
        seconds = time.perf_counter() - began
        count, batches = len(self._train), -(-len(self._train) // self._recipe.batch_size)
        epoch = self.position.epoch + 1
        metrics = _metrics("train", totals / count)
        self._require_finite(metrics, epoch)
        if len(self._val):
            metrics |= self._validate(guard)
            self._require_finite(metrics, epoch)
        due = [name for name, each in self._evaluators.items() if each.every and epoch % each.every == 0]
        metrics = self._evaluate(due, guard) | metrics
        metrics["train/learning_rate"] = float(self._optimizer.param_groups[0]["lr"])
        metrics |= {"time/epoch_seconds": seconds, "time/images_per_second": count / seconds}
        self._advance_schedule(metrics[self._recipe.monitor])
        self.position.epoch, self.position.metrics = epoch, metrics
        for tracker in self._trackers:
            tracker.log({"epoch": epoch, **metrics}, self.position.step)
        progress.epoch(epoch, totals[0].item() / batches, metrics)
        self._keep(metrics[self._recipe.monitor], epoch)

    def _train_epoch(self, guard: InterruptGuard, progress: ProgressDisplay) -> Tensor:
        """One pass over the training images; the sums over them of loss, distortion and rate, in nats."""
        self._vae.train()
        totals = _zero_totals(self._train.device)
        for images in self._train.shuffled_batches(self._recipe.batch_size, self._order):
            guard.check()
            sums = self._step(images)
            totals += sums
            self.position.step += 1
            progress.step(_shown(sums, len(images)) if progress.wants_values() else None)
        return totals

    def _step(self, images: Tensor) -> Tensor:
        """One optimiser step; the sums over the batch of loss, distortion and rate, in nats."""
        terms = self._loss(self._vae, images, self._noise)
        total = terms.loss.sum()
        self._optimizer.zero_grad(set_to_none=True)
        (total if self._recipe.reduction == "sum" else total / len(images)).backward()
        self._optimizer.step()
        return _sums(terms)

    @torch.no_grad()
    def _validate(self, guard: InterruptGuard) -> dict[str, float]:
        """The very loss that is minimised, on the held-out images, with the same noise every time."""
        self._vae.eval()
        noise = generator(self._recipe.seed, "evaluation", self._val.device)
        totals = _zero_totals(self._val.device)
        for images in self._val.batches(self._recipe.batch_size):
            guard.check()
            totals += _sums(self._loss(self._vae, images, noise))
        return _metrics("val", totals / len(self._val))

    def _evaluate(self, names: Sequence[str], guard: InterruptGuard) -> dict[str, float]:
        """Run evaluators on the held-out images, or on the training images where none are held out.

        A name that training reports itself, such as `val/loss`, stays training's own.
        """
        split, images = ("val", self._val) if len(self._val) else ("train", self._train)
        metrics: dict[str, float] = {}
        for name in names:
            guard.check()
            numbers, figures = run_evaluator(self._evaluators[name], self._vae, images, self._recipe.seed)
            metrics |= {f"{split}/{key}": value for key, value in numbers.items()}
            if figures:
                paths = save_figures(figures, self._directory.figures)
                for tracker in self._trackers:
                    tracker.log_figures(paths, self.position.step)
        guard.check()
        return metrics

    def _require_finite(self, metrics: Mapping[str, float], epoch: int) -> None:
        found = {name: value for name, value in metrics.items() if not isfinite(value)}
        if not found and not self._weights_are_finite():
            found = {"a weight": nan}
        for name, value in found.items():
            raise DivergedError(
                f"{name} is {value} in epoch {epoch} (step {self.position.step}): training diverged. "
                f"Checkpoints of earlier epochs stand; a smaller optimizer.lr may help."
            )

    def _weights_are_finite(self) -> bool:
        return all(bool(each.isfinite().all()) for each in self._vae.parameters())

    def _advance_schedule(self, monitored: float) -> None:
        if isinstance(self._scheduler, ReduceLROnPlateau):
            self._scheduler.step(monitored)
        elif self._scheduler is not None:
            self._scheduler.step()

    def _keep(self, monitored: float, epoch: int) -> None:
        if self.best.update(monitored, epoch):
            self._save("best")
        self._save("last")
        self.position.stopped_early = self.best.exhausted

    def _save(self, name: str) -> None:
        state = {
            **self._identity,
            "epoch": self.position.epoch,
            "step": self.position.step,
            "best": {"monitor": self._recipe.monitor, "value": self.best.value, "epoch": self.best.epoch},
            "vae": self._vae.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scheduler": None if self._scheduler is None else self._scheduler.state_dict(),
            "generators": {"shuffle": self._order.get_state(), "noise": self._noise.get_state()},
        }
        save_checkpoint(self._directory.checkpoint(name), state)


def _zero_totals(device: torch.device) -> Tensor:
    return torch.zeros(3, device=device, dtype=torch.float32 if device.type == "mps" else torch.float64)


def _sums(terms: LossTerms) -> Tensor:
    return torch.stack([terms.loss.detach(), terms.distortion.detach(), terms.rate.detach()]).sum(dim=1)


def _shown(sums: Tensor, count: int) -> dict[str, float]:
    loss, distortion, rate = (sums / count).tolist()
    return {"loss": loss, "rate": rate, "distortion": distortion}


def _metrics(split: str, means: Tensor) -> dict[str, float]:
    loss, distortion, rate = means.tolist()
    return {
        f"{split}/loss": loss,
        f"{split}/elbo": -(distortion + rate),
        f"{split}/distortion": distortion,
        f"{split}/rate": rate,
    }
