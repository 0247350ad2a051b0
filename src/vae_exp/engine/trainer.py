"""The training loop."""

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from math import isfinite, nan
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from vae_exp.data.batch_loader import make_loader
from vae_exp.data.images import ImageSet
from vae_exp.engine.checkpoint import load_optimizer_state
from vae_exp.engine.checkpoint_manager import CheckpointManager
from vae_exp.engine.distributed import DistributedContext
from vae_exp.engine.early_stopping import EarlyStopping
from vae_exp.engine.ema import ExponentialMovingAverage
from vae_exp.engine.evaluator_loop import EvaluatorLoop
from vae_exp.engine.non_finite import LossMonitor, NonFiniteChecker
from vae_exp.engine.optimal_variance import OptimalVariance
from vae_exp.engine.position import TrainState
from vae_exp.engine.posterior_collapse import PosteriorCollapseMonitor
from vae_exp.engine.precision import computing_in
from vae_exp.engine.progress import ProgressDisplay
from vae_exp.engine.protocols import Evaluator, Pruner, Tracker
from vae_exp.engine.recipe import TrainerOptions
from vae_exp.engine.record import EpochLossBuffer
from vae_exp.engine.seeding import generator, process_random_state, restore_process_random_state
from vae_exp.engine.shutdown import GracefulShutdown
from vae_exp.engine.step_mode import choose_mode, compiled, stepper
from vae_exp.engine.threads import ContentionWatch
from vae_exp.engine.train_step import NonFiniteLossError, Scoring, TrainStep
from vae_exp.engine.validation import Validator, loss_term_metrics
from vae_exp.errors import Interrupted, TrialPruned, UserError
from vae_exp.model.conditional import ConditionalVAE
from vae_exp.model.vae import VAE
from vae_exp.objective.loss_terms import Loss
from vae_exp.objective.schedules import LossSchedules
from vae_exp.storage.run_directory import RunDirectory

_log = logging.getLogger(__name__)
_SEEN_BY_MONITOR = 500
_ASTRAY = 1  # a flag below all numbers of signals that end a run


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
        team: The processes that share the batches; the leading one alone evaluates, writes and tracks.
        pruner: Ends the run early where a search has better ones; None lets it be.
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
        recipe: TrainerOptions,
        identity: Mapping[str, Any],
        team: DistributedContext | None = None,
        pruner: Pruner | None = None,
    ) -> None:
        self.position = TrainState()
        self.seconds_before = 0.0  # of training, before it was resumed
        self.best = EarlyStopping(recipe.patience, recipe.min_delta)
        self.monitor = recipe.monitor
        self.precision = recipe.precision
        self.warnings: list[dict[str, Any]] = []
        self._vae = vae
        self._loss = loss
        self._schedules = LossSchedules(loss, train.device)
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._train = train
        self._device = train.device
        self._trackers = trackers
        self._recipe = recipe
        self._identity = dict(identity)
        self._pruner = pruner
        self.team = team or DistributedContext()
        self._sizes = _batch_sizes(len(train), recipe.batch_size)
        _require_work_for_all(self._sizes, self.team)
        self._average = None if recipe.ema_decay is None else ExponentialMovingAverage(vae, recipe.ema_decay)
        self._shuffle = generator(recipe.seed, "shuffle", self._device)
        self._epoch_start = self._shuffle.get_state()
        self._record = EpochLossBuffer(len(self._sizes), self._device)
        self._monitor = LossMonitor(self._record)
        self._checker = NonFiniteChecker(vae, self._record)
        self._variance = OptimalVariance(vae, train, recipe.batch_size, recipe.seed)
        self._validator = Validator(vae, loss, self._schedules, val, recipe.batch_size, recipe.seed)
        seen = val if len(val) else train.first(_SEEN_BY_MONITOR).settled()
        self._collapse = PosteriorCollapseMonitor(vae, seen, self._schedules) if recipe.collapse_monitor else None
        self._evaluator_loop = EvaluatorLoop(
            evaluators, vae, train=train, val=val, seed=recipe.seed, figures=directory.figures, trackers=trackers
        )
        self._checkpoints = CheckpointManager(
            directory, recipe.checkpoint_every_n_epochs, recipe.checkpoint_every_n_seconds
        )
        self._mode = choose_mode(recipe.step, self._device, self.team)
        alone_on_cpu = self._device.type == "cpu" and self._mode == "eager" and self.team.size == 1
        self._contention = ContentionWatch() if alone_on_cpu else None
        self._astray = False
        self._labelled = isinstance(vae, ConditionalVAE)
        self._step = self._training_step()
        self._stepper = stepper(self._mode, self._step, self._device, self.team, self._sizes[0])

    @property
    def step_mode(self) -> str:
        """How steps are run: `eager`, `graph` or `compile`; what a graph fell back to, if it had to."""
        return "eager" if self._mode == "graph" and getattr(self._stepper, "fallback", None) else self._mode

    def fit(self, guard: GracefulShutdown, progress: ProgressDisplay) -> TrainState:
        """Train to the end of the recipe, or until patience runs out.

        Raises:
            Interrupted: on Ctrl-C or SIGTERM, after `last.pt` has been written.
            DivergedError: if a loss, a gradient or a weight is not finite; the last good checkpoint stands.
            Pruned: if the pruner ends it.
        """
        before, started = self.position.seconds, time.perf_counter()
        try:
            with self._stepper.running():
                while self.position.epoch < self._recipe.epochs and not self.position.stopped_early:
                    self._run_epoch(guard, progress)
                    self.position.seconds = before + time.perf_counter() - started
                    self._keep()
                    if self._pruner and self._pruner.stop(self.position.epoch, self.position.metrics):
                        raise TrialPruned
                if self.team.leads and self.position.epoch:
                    self._checkpoints.save_final(self._state, self.position.epoch)
        except Interrupted:
            self.position.seconds = before + time.perf_counter() - started
            if self.team.leads and self._checker.weights_are_finite():
                self._checkpoints.save_now(self._state)
            else:
                self._checkpoints.flush_pending()
            raise
        except (Exception, SystemExit):  # a cluster's handler leaves in this way when time is up
            self._checkpoints.flush_pending()
            raise
        finally:
            self.position.seconds = before + time.perf_counter() - started
            progress.close()
        return self.position

    def finish(self, guard: GracefulShutdown) -> None:
        """Run the evaluators that wait for the end of training; names that training reports stay its own.

        Raises:
            Interrupted: on Ctrl-C or SIGTERM, before the next evaluator.
        """
        waiting, step = self._evaluator_loop.due_at_end(), self.position.step
        with self._average.average_parameters() if self._average else nullcontext():
            metrics = self.team.share(lambda: self._evaluator_loop.run(waiting, step, guard) if waiting else {})
        if metrics:
            self.position.metrics = metrics | self.position.metrics
            for tracker in self._trackers:
                tracker.log({"epoch": self.position.epoch, **metrics}, self.position.step)

    def load_state(self, state: Mapping[str, Any], *, replan: bool = False) -> None:
        """Go on from what a checkpoint holds, to the bit.

        Args:
            state: Of a run with the same model, optimiser, data and batches.
            replan: Whether the schedule of the learning rate is another than the checkpoint's, as when it follows
                from a number of epochs that has been raised: it goes on where it would be by now, had it been
                the schedule from the start.
        """
        self._vae.load_state_dict(state["vae"])
        replan = replan and not isinstance(self._scheduler, ReduceLROnPlateau)
        load_optimizer_state(self._optimizer, state["optimizer"], keep_options=replan)
        if replan:
            for _ in range(state["epoch"]):
                self._advance_schedule(nan)
        elif self._scheduler is not None:
            self._scheduler.load_state_dict(state["scheduler"])
        if self._average is not None and state["average"] is not None:
            self._average.load_state_dict(state["average"], state["step"])
        self.best.load_state_dict(state["best"])
        self.warnings = list(state.get("warnings", ()))
        if self._collapse is not None and state.get("collapse"):
            self._collapse.load_state_dict(state["collapse"])
        self._load_generators(state["generators"], state["epoch"])
        self.position = TrainState(
            epoch=state["epoch"],
            step=state["step"],
            batches=state["batches"],
            seconds=state["seconds"],
            metrics=dict(state["metrics"]),
            stopped_early=self.best.should_stop,
            lines=state["lines"],
        )
        self.seconds_before = state["seconds"]
        self._record.begin(state["rows"].to(self._device))

    def _load_generators(self, state: Mapping[str, Any], epoch: int) -> None:
        if state["device"] != self._device.type:
            _log.warning(
                "The checkpoint was made on %s: order and noise are drawn anew on %s, so that the run is another "
                "from here on.",
                state["device"],
                self._device.type,
            )
            self._shuffle = generator(self._recipe.seed, "shuffle", self._device, epoch)
            self._step.noise = generator(self._recipe.seed, "noise", self._device, epoch)
        else:
            self._shuffle.set_state(state["shuffle"].cpu())
            self._step.noise.set_state(state["noise"].cpu())
        self._epoch_start = self._shuffle.get_state()
        restore_process_random_state(state["process"], self._device)

    def _training_step(self) -> TrainStep:
        scoring = Scoring(self._vae, self._loss)
        two = slice(0, 2)
        labels = [self._train.labels_at(two)] if self._labelled else []
        example = self._train.scaled(two), torch.Generator(self._device), *labels
        wrapped = self.team.wrap(scoring, self._device, *example)
        return TrainStep(
            score=compiled(wrapped) if self._mode == "compile" else wrapped,
            parameters=list(self._vae.parameters()),
            optimizer=self._optimizer,
            feed=make_loader(self._train, -(-self._sizes[0] // self.team.size)),
            noise=generator(self._recipe.seed, "noise", self._device),
            record=self._record,
            reduction=self._recipe.reduction,
            gradient_clip=self._recipe.gradient_clip,
            dynamic=self._train.dynamic,
            labelled=self._labelled,
            average=self._average,
            team=self.team,
        )

    def _run_epoch(self, guard: GracefulShutdown, progress: ProgressDisplay) -> None:
        began = time.perf_counter()
        epoch = self.position.epoch + 1
        trained = sum(self._sizes[self.position.batches :])
        totals = self._train_epoch(guard, progress)
        seconds = time.perf_counter() - began
        count = len(self._train)
        metrics = self.team.share(lambda: self._metrics_of_epoch(totals / count, epoch, guard))
        metrics["train/learning_rate"] = float(self._optimizer.param_groups[0]["lr"])
        metrics |= {f"loss/{name}": value for name, value in self._schedules.values().items()}
        metrics |= {"time/epoch_seconds": seconds, "time/images_per_second": trained / seconds}
        self._advance_schedule(metrics[self._recipe.monitor])
        self.position.epoch, self.position.batches, self.position.metrics = epoch, 0, metrics
        self._epoch_start = self._shuffle.get_state()
        for tracker in self._trackers:
            tracker.log({"epoch": epoch, **metrics}, self.position.step)
        self.position.lines += 1
        progress.epoch(epoch, totals[0].item() / len(self._sizes), metrics)

    def _metrics_of_epoch(self, means: Tensor, epoch: int, guard: GracefulShutdown) -> dict[str, float]:
        """What an epoch is reported with, of the average weights where there is an average."""
        metrics = loss_term_metrics("train", means)
        self._checker.check_metrics(metrics, self.position)
        with self._average.average_parameters() if self._average else nullcontext():
            self._variance.update(guard)
            metrics |= self._validator.run(guard)
            self._checker.check_metrics(metrics, self.position)
            due = self._evaluator_loop.due_at_epoch(epoch)
            metrics = self._evaluator_loop.run(due, self.position.step, guard) | metrics
            for name, message in (self._collapse.update(metrics) if self._collapse else {}).items():
                if self._keep_warning(name, message, epoch):
                    _log.warning("%s, epoch %d: %s", name.replace("_", " ").capitalize(), epoch, message)
        fallback = getattr(self._stepper, "fallback", None)
        if fallback:
            self._keep_warning("no_cuda_graph", f"steps are not recorded as a CUDA graph ({fallback}).", epoch)
        return metrics

    def _keep_warning(self, name: str, message: str, epoch: int) -> bool:
        """Keep the first warning of a name for checkpoints, trackers and `result.json`; whether this is it."""
        if any(warning["name"] == name for warning in self.warnings):
            return False
        self.warnings.append({"name": name, "epoch": epoch, "message": message})
        for tracker in self._trackers:
            tracker.warn(name.replace("_", " "), f"epoch {epoch}: {message}")
        return True

    def _train_epoch(self, guard: GracefulShutdown, progress: ProgressDisplay) -> Tensor:
        """The rest of an epoch; the sums over all its images of loss, distortion and rate, in nats."""
        self._vae.train()
        done = self.position.batches
        self._begin_epoch(done)
        contention = self._contention.watching() if self._contention else nullcontext()
        with computing_in(self._vae, self._recipe.precision), contention:
            for size in self._sizes[done:]:
                self._stop_if_asked(guard)
                self._run_step(size, progress)
        return self._record.totals()

    def _run_step(self, size: int, progress: ProgressDisplay) -> None:
        self._schedules.begin_step(self.position.step)
        try:
            sums = self._stepper(size)
        except NonFiniteLossError:
            self._checker.check_steps(self.position)
            raise
        self.position.step += 1
        self.position.batches += 1
        seen = self._monitor.poll(sums, size)
        self._astray = seen is not None and not isfinite(seen[0].item())
        progress.step(_shown(seen) if seen is not None and progress.wants_values() else None)

    def _begin_epoch(self, done: int) -> None:
        """Draw the order of the epoch; `done` batches of it have been trained before an interruption."""
        order = torch.randperm(len(self._train), generator=self._shuffle, device=self._device)
        sizes = [self.team.part(size) for size in self._sizes]
        self._step.feed.begin(self.team.own(order, self._sizes), sizes, done)
        self._record.begin(self._record.rows[:done].clone() if done else None)
        self._schedules.begin_epoch(self.position.epoch, self.position.step)

    def _stop_if_asked(self, guard: GracefulShutdown) -> None:
        """Stop all processes of the team at the same step, whichever of them has a reason."""
        raised = self.team.agree(guard.received or (_ASTRAY if self._astray else 0))
        if raised == _ASTRAY:
            self._checker.check_steps(self.position)
        elif raised:
            raise Interrupted(raised)

    def _advance_schedule(self, monitored: float) -> None:
        try:
            if isinstance(self._scheduler, ReduceLROnPlateau):
                self._scheduler.step(monitored)
            elif self._scheduler is not None:
                self._scheduler.step()
        except (ValueError, ArithmeticError) as error:
            raise UserError(
                f"scheduler cannot go on after epoch {self.position.epoch + 1} of {self._recipe.epochs}: {error}; "
                f"its length must fit trainer.epochs."
            ) from error

    def _keep(self) -> None:
        position = self.position
        improved = self.best.update(position.metrics[self._recipe.monitor], position.epoch)
        position.stopped_early = self.best.should_stop
        if self.team.leads:
            self._checkpoints.on_epoch_end(self._state, position.epoch, improved=improved)

    def _state(self) -> dict[str, Any]:
        """Everything that `load_state` needs: tensors and plain values alone."""
        position = self.position
        return {
            **self._identity,
            "epoch": position.epoch,
            "step": position.step,
            "batches": position.batches,
            "rows": self._record.rows[: position.batches].clone(),
            "seconds": position.seconds,
            "metrics": position.metrics,
            "lines": position.lines,
            "warnings": list(self.warnings),
            "collapse": None if self._collapse is None else self._collapse.state_dict(),
            "best": {"monitor": self._recipe.monitor, **self.best.state_dict()},
            "vae": self._vae.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scheduler": None if self._scheduler is None else self._scheduler.state_dict(),
            "generators": {
                "device": self._device.type,
                "shuffle": self._epoch_start,
                "noise": self._step.noise.get_state(),
                "process": process_random_state(self._device),
            },
        }


def _require_work_for_all(sizes: list[int], team: DistributedContext) -> None:
    if sizes and sizes[-1] < team.size:
        raise UserError(
            f"trainer.batch_size={sizes[0]} leaves a last batch of {sizes[-1]} images for {team.size} processes; "
            f"choose one that leaves at least {team.size}, or none."
        )


def _batch_sizes(count: int, batch_size: int) -> list[int]:
    whole, rest = divmod(count, batch_size)
    return [batch_size] * whole + [rest] * (rest > 0)


def _shown(means: Tensor) -> dict[str, float]:
    loss, distortion, rate = means.tolist()
    return {"loss": loss, "rate": rate, "distortion": distortion}
