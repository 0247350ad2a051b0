"""The training loop."""

import logging
import re
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import groupby
from math import isfinite, nan
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from vae_exp.data.augmentation import make_augmentation
from vae_exp.data.batch_loader import make_loader
from vae_exp.data.images import Batch, ImageSet
from vae_exp.engine.checkpoint import load_optimizer_state
from vae_exp.engine.checkpoint_manager import CheckpointManager
from vae_exp.engine.cuda_graph import CUDAGraphStep
from vae_exp.engine.device import matmul_precision
from vae_exp.engine.distributed import DistributedContext
from vae_exp.engine.early_stopping import EarlyStopping
from vae_exp.engine.ema import ExponentialMovingAverage, load_average
from vae_exp.engine.evaluator_loop import EvaluatorLoop
from vae_exp.engine.flat_parameter import optimizer_state
from vae_exp.engine.non_finite import LossMonitor, NonFiniteChecker
from vae_exp.engine.optimal_variance import OptimalVariance
from vae_exp.engine.phase_seconds import measure_phase
from vae_exp.engine.posterior_collapse import PosteriorCollapseMonitor
from vae_exp.engine.progress import NullProgress, ProgressDisplay
from vae_exp.engine.protocols import Evaluator, Pruner, Tracker
from vae_exp.engine.seeding import make_generator
from vae_exp.engine.shutdown import GracefulShutdown
from vae_exp.engine.threads import ContentionWatch
from vae_exp.engine.throw_into import ThrowInto
from vae_exp.engine.train_state import TrainState
from vae_exp.engine.train_step import (
    EpochLossBuffer,
    ModelWithLoss,
    NonFiniteLossError,
    TrainStep,
    compile_module,
    resolve_execution_mode,
)
from vae_exp.engine.trainer_options import TrainerOptions
from vae_exp.engine.training_rng import TrainingRNG
from vae_exp.engine.validation import Validator, loss_term_metrics
from vae_exp.errors import Interrupted, TrialPruned, UserError
from vae_exp.model.vae import VAE
from vae_exp.objective.loss_terms import Loss, needs_labels
from vae_exp.objective.schedules import LossSchedules
from vae_exp.storage.run_directory import RunDirectory

_log = logging.getLogger(__name__)
_COLLAPSE_MONITOR_IMAGES = 500
_OF_EPOCH = re.compile(r"(best/)?(val|train)/(loss|elbo|distortion|rate)")  # evaluators do not replace these
_NON_FINITE = 1  # a flag below all numbers of signals that end a run


class Trainer:
    """Trains a VAE, evaluates it, and writes its checkpoints.

    Args:
        vae: The model, on the device of the images.
        loss: Scores a batch per example, in nats.
        optimizer: Over the model's parameters.
        scheduler: Stepped once an epoch; None for a constant learning rate.
        train: The training images.
        val: The held-out images; may be empty.
        evaluators: By name; each has its interval.
        trackers: Log the metrics of every epoch, figures and warnings.
        directory: Where checkpoints and figures go.
        options: How to train.
        checkpoint_metadata: Plain values that every checkpoint contains.
        dist: The processes that share the batches; the main one alone evaluates, writes and tracks.

    Attributes:
        stack_size: How many trainers make their steps together.
        steps_per_graph: How many steps one replay of a CUDA graph makes.
    """

    stack_size = 1

    def __init__(
        self,
        *,
        vae: VAE,
        loss: Loss,
        optimizer: Optimizer,
        scheduler: LRScheduler | None,
        train: ImageSet,
        val: ImageSet,
        directory: RunDirectory,
        options: TrainerOptions,
        evaluators: Mapping[str, Evaluator] | None = None,
        trackers: Sequence[Tracker] = (),
        checkpoint_metadata: Mapping[str, Any] | None = None,
        dist: DistributedContext | None = None,
    ) -> None:
        seed = options.seed
        self.state = TrainState()
        self.previous_seconds = 0.0  # before this process resumed the run
        self.phase_seconds = dict.fromkeys(("training", "validation", "evaluators", "checkpoints"), 0.0)
        self.best = EarlyStopping(options.patience, options.min_delta)
        self.options = options
        self.warnings: list[dict[str, Any]] = []
        self.dist = dist or DistributedContext()
        self.vae, self.loss = vae, loss
        self._optimizer, self._scheduler = optimizer, scheduler
        self._train, self.device = train, train.device
        self._trackers = trackers
        self._checkpoint_metadata = dict(checkpoint_metadata or {})
        self._batch_sizes = self.due_sizes = _batch_sizes(len(train), options.batch_size, self.dist)
        self.schedules = LossSchedules(loss, self.device)
        self._ema = None if options.ema_decay is None else ExponentialMovingAverage(vae, options.ema_decay)
        batches_from = train if needs_labels(vae, loss) else train.without_labels()
        self._loader = make_loader(batches_from, -(-self._batch_sizes[0] // self.dist.world_size))
        self.loss_buffer = EpochLossBuffer(len(self._batch_sizes), self._loader.batch_index)
        self._loss_monitor, self._saw_non_finite = LossMonitor(self.loss_buffer), False
        self._non_finite = NonFiniteChecker(vae, self.loss_buffer)
        self._variance = OptimalVariance(vae, train, options.batch_size, seed)
        self._validator = Validator(vae, loss, self.schedules, val, options.batch_size, seed)
        self._collapse = None
        if options.warn_posterior_collapse:
            images = val if len(val) else train.take(_COLLAPSE_MONITOR_IMAGES).with_fixed_binarization()
            self._collapse = PosteriorCollapseMonitor(vae, images, self.schedules)
        self._evaluator_loop = EvaluatorLoop(
            evaluators or {}, vae, train=train, val=val, seed=seed, figures=directory.figures, trackers=trackers
        )
        self._checkpoints = CheckpointManager(
            directory, options.checkpoint_every_n_epochs, options.checkpoint_every_n_seconds
        )
        self._mode = resolve_execution_mode(options.execution, self.device, self.dist)
        self.train_step = self._make_train_step(loss)
        self._rng = TrainingRNG(seed, self.device, self.train_step)
        self._step: TrainStep | CUDAGraphStep = self.train_step
        if self.device.type == "cuda" and self._mode != "eager" and self.dist.world_size == 1:
            self._step = CUDAGraphStep(self.train_step, self.device, self._batch_sizes[0])
        waits_for_cpu = self.device.type == "cpu" and self._mode == "eager" and train.is_resident
        self._contention = ContentionWatch() if waits_for_cpu and self.dist.world_size == 1 else None
        self.steps_per_graph = self._choose_steps_per_graph(options.steps_per_graph)

    @property
    def steps_per_epoch(self) -> int:
        """The number of batches of an epoch."""
        return len(self._batch_sizes)

    @property
    def stopped_early(self) -> bool:
        """Whether early stopping has ended training before the last epoch."""
        return self.best.should_stop and self.state.epoch < self.options.epochs

    @property
    def execution(self) -> str:
        """How steps are run: `eager`, `graph` or `compile`, or `stacked/N` in a stack of N runs.

        It is `eager` where a graph could not be captured.
        """
        if self.stack_size > 1:
            return f"stacked/{self.stack_size}"
        return "eager" if self._mode == "graph" and self._graph_fallback else self._mode

    def fit(
        self, shutdown: GracefulShutdown, progress: ProgressDisplay, pruner: Pruner | None = None
    ) -> TrainState:
        """Train for all epochs, or until early stopping.

        Args:
            shutdown: Notes Ctrl-C and SIGTERM.
            progress: Shows steps and epochs.
            pruner: Asked after every epoch whether to end the run; None for no pruning.

        Raises:
            Interrupted: on Ctrl-C or SIGTERM, after `last.pt` has been written.
            DivergedError: if a loss, a gradient or a weight is not finite; the last checkpoint stands.
            TrialPruned: if the pruner ends the run.
        """
        run, step = self.paused_fit(shutdown, progress, pruner), self._step
        with self.on_capture_stream():
            for _ in run:
                contention = self._contention.measure() if self._contention else nullcontext()
                with ThrowInto(run), self.training_phase(), contention:
                    for size, steps in _group_steps(self.due_sizes, self.steps_per_graph):
                        self._prepare_step(shutdown)
                        sums = step(size, steps) if isinstance(step, CUDAGraphStep) else step(size)
                        self._finish_step(sums, size, progress, steps)
        return self.state

    def paused_fit(
        self, shutdown: GracefulShutdown, progress: ProgressDisplay, pruner: Pruner | None = None
    ) -> Generator[None, None, None]:
        """`fit`, paused where steps on batches of `due_sizes` are due; what goes wrong in them is thrown in.

        Arguments and errors are those of `fit`.
        """
        state = self.state
        start = time.perf_counter() - state.train_seconds
        try:
            while state.epoch < self.options.epochs and not self.best.should_stop:
                epoch_start = self.phase_seconds["training"] - state.epoch_seconds
                with measure_phase(self.phase_seconds, "training"):
                    self.start_epoch()
                yield
                with measure_phase(self.phase_seconds, "training"):
                    totals = self.loss_buffer.totals()
                self._rng.end_steps()
                self._end_epoch(totals, self.phase_seconds["training"] - epoch_start, shutdown, progress)
                state.train_seconds = time.perf_counter() - start
                self._checkpoint()
                if pruner and pruner.stop(state.epoch, state.metrics):
                    self._save_final()
                    raise TrialPruned
            self._save_final()
        except Interrupted:
            state.train_seconds = time.perf_counter() - start
            state.epoch_seconds = self.phase_seconds["training"] - epoch_start
            if self.dist.is_main and self._non_finite.weights_are_finite():
                with measure_phase(self.phase_seconds, "checkpoints"):
                    self._checkpoints.save_now(self.state_dict)
            else:
                self._checkpoints.flush_pending()
            raise
        except (Exception, SystemExit) as error:  # a cluster's signal handler raises SystemExit when time is up
            self._checkpoints.flush_pending()
            if isinstance(error, NonFiniteLossError):
                self._non_finite.check_steps(state)
            raise
        finally:
            state.train_seconds = time.perf_counter() - start
            progress.close()

    def _save_final(self) -> None:
        if self.state.epoch and self.dist.is_main:
            with measure_phase(self.phase_seconds, "checkpoints"):
                self._checkpoints.save_final(self.state_dict, self.state.epoch)

    def run_steps(self, count: int) -> int:
        """Train on the next `count` batches, without validation, evaluators, trackers and checkpoints.

        Returns:
            The number of images.

        Raises:
            DivergedError: if a loss or a weight is not finite at the end of an epoch.
        """
        state, images = self.state, 0
        shutdown, progress = GracefulShutdown(), NullProgress()
        with self.on_capture_stream(), matmul_precision(self.vae, self.options.precision):
            for _ in range(count):
                if state.batch_in_epoch == len(self._batch_sizes):
                    means = self.loss_buffer.totals() / len(self._train)
                    self._non_finite.check_metrics(loss_term_metrics("train", means), state)
                    state.epoch, state.batch_in_epoch = state.epoch + 1, 0
                if state.batch_in_epoch == 0:
                    self.start_epoch()
                size = self._batch_sizes[state.batch_in_epoch]
                self._prepare_step(shutdown)
                self._finish_step(self._step(size), size, progress)
                images += size
        return images

    def run_final_evaluators(self, shutdown: GracefulShutdown) -> None:
        """Run the evaluators whose turn is after training, on the best checkpoint; their metrics are `best/…`.

        Without `best.pt`, which a user may have removed, they run on the last epoch: its metrics have no prefix.

        Raises:
            Interrupted: on Ctrl-C or SIGTERM, before the next evaluator.
        """
        step = self.state.global_step
        # In every process: the main one alone has evaluators.
        with measure_phase(self.phase_seconds, "evaluators"):
            metrics = self.dist.run_on_main_and_broadcast(lambda: self._evaluate_best(step, shutdown))
        if metrics:
            self.state.metrics |= metrics
            for tracker in self._trackers:
                tracker.log({"epoch": self.state.epoch, **metrics}, step)

    def _evaluate_best(self, step: int, shutdown: GracefulShutdown) -> dict[str, float]:
        names = self._evaluator_loop.due_at_end()
        if not names:
            return {}
        best = self._checkpoints.load_best()
        epoch, checkpoint = (best["epoch"], "best") if best else (self.state.epoch, "last")
        with self._checkpoint_weights(best) if best else self._average_weights():
            metrics = self._evaluator_loop.run(names, step, shutdown, epoch, checkpoint)
        return {name: value for name, value in metrics.items() if not _OF_EPOCH.fullmatch(name)}

    def load_state_dict(self, state: Mapping[str, Any], *, replan: bool = False) -> None:
        """Continue from a checkpoint, to the bit.

        Args:
            state: Of a run with the same model, optimizer, data and batches.
            replan: Whether the schedule of the learning rate is not the checkpoint's, as when it follows from a
                number of epochs that has been raised: it continues where it would be by now, had it been the
                schedule from the start.
        """
        self.vae.load_state_dict(state["vae"])
        replan = replan and not isinstance(self._scheduler, ReduceLROnPlateau)
        load_optimizer_state(self._optimizer, state["optimizer"], keep_options=replan)
        if replan:
            for _ in range(state["epoch"]):
                self._step_scheduler(nan)
        elif self._scheduler is not None:
            self._scheduler.load_state_dict(state["scheduler"])
        if self._ema is not None and state["average"] is not None:
            self._ema.load_state_dict(state["average"], state["step"])
        self.best.load_state_dict(state["best"])
        self.warnings = list(state.get("warnings", ()))
        if self._collapse is not None and state.get("collapse"):
            self._collapse.load_state_dict(state["collapse"])
        self._rng.load_state_dict(state["generators"], state["epoch"])
        self.state = TrainState(
            epoch=state["epoch"],
            global_step=state["step"],
            batch_in_epoch=state["batches"],
            train_seconds=state["seconds"],
            epoch_seconds=state.get("epoch_seconds", 0.0),
            metrics=dict(state["metrics"]),
            metrics_rows=state["lines"],
        )
        self.previous_seconds = state["seconds"]
        self.loss_buffer.start_epoch(state["rows"].to(self.device))
        self.train_step.last_grad_norm.fill_(state.get("grad_norm", nan))

    def example(self, size: int) -> Batch:
        """The first `size` training images, with the labels that steps need."""
        batch = self._train.batch(slice(0, size))
        return Batch(batch.images, batch.labels if needs_labels(self.vae, self.loss) else None)

    def _make_train_step(self, loss: Loss) -> TrainStep:
        first = self.example(2)
        example = first.images, torch.Generator(self.device), first.labels
        module = self.dist.wrap_ddp(ModelWithLoss(self.vae, loss), self.device, *example)
        return TrainStep(
            model_with_loss=compile_module(module) if self._mode == "compile" else module,
            parameters=[parameter for parameter in self.vae.parameters() if parameter.requires_grad],
            optimizer=self._optimizer,
            loader=self._loader,
            generator=make_generator(self.options.seed, "noise", self.device),
            loss_buffer=self.loss_buffer,
            reduction=self.options.reduction,
            max_grad_norm=self.options.max_grad_norm,
            dynamic_binarization=self._train.is_dynamic,
            ema=self._ema,
            dist=self.dist,
            augment=make_augmentation(self._train),
        )

    def _choose_steps_per_graph(self, requested: int) -> int:
        """What is requested, or 1 where one replay cannot make several steps; a warning says why."""
        full_batches = self._batch_sizes.count(self._batch_sizes[0])
        obstacles = {
            "steps are not captured as a CUDA graph": not isinstance(self._step, CUDAGraphStep),
            "images are streamed, and copied before each step": not self._train.is_resident,
            "a schedule of the loss has unit=step": self.schedules.by_step,
            f"an epoch has fewer full batches ({full_batches})": full_batches < requested,
        }
        reason = next((reason for reason, applies in obstacles.items() if applies), None)
        if requested == 1 or reason is None:
            return requested
        _log.warning("trainer.steps_per_graph=%d is not used: %s.", requested, reason)
        return 1

    @property
    def _graph_fallback(self) -> str | None:
        return self._step.fallback if isinstance(self._step, CUDAGraphStep) else None

    def on_capture_stream(self) -> AbstractContextManager[None]:
        """The stream that steps and what lies between them run on, where they are captured as a CUDA graph."""
        return self._step.on_capture_stream() if isinstance(self._step, CUDAGraphStep) else nullcontext()

    def _average_weights(self) -> AbstractContextManager[None]:
        return self._ema.average_parameters() if self._ema else nullcontext()

    @contextmanager
    def _checkpoint_weights(self, checkpoint: Mapping[str, Any]) -> Iterator[None]:
        """The weights of a checkpoint, their average where there is one, for the length of a block."""
        current = {name: tensor.clone() for name, tensor in self.vae.state_dict().items()}
        self.vae.load_state_dict(checkpoint["vae"])
        load_average(self.vae, checkpoint["average"] or {})
        try:
            yield
        finally:
            self.vae.load_state_dict(current)

    @contextmanager
    def training_phase(self) -> Iterator[None]:
        """A block of steps: in the precision of training, and counted as such."""
        with measure_phase(self.phase_seconds, "training"), matmul_precision(self.vae, self.options.precision):
            yield

    def start_epoch(self) -> None:
        """Draw the order of the epoch; without the batches trained before an interruption."""
        self.vae.train()
        done = self.state.batch_in_epoch
        order = self._rng.draw_order(len(self._train))
        local_sizes = [self.dist.local_batch_size(size) for size in self._batch_sizes]
        self._loader.start_epoch(self.dist.local_indices(order, self._batch_sizes), local_sizes, done)
        self.loss_buffer.start_epoch(self.loss_buffer.rows[:done].clone() if done else None)
        self.schedules.begin_epoch(self.state.epoch, self.state.global_step)
        self.due_sizes = self._batch_sizes[done:]
        if not self.due_sizes:  # interrupted after the last: the loss is at the weights of that step
            self.schedules.begin_step(self.state.global_step - 1)

    def _prepare_step(self, shutdown: GracefulShutdown) -> None:
        """What the host does before a step; all processes stop at the same step, whichever has a reason."""
        flag = self.dist.any_rank_flag(shutdown.signal_number or (_NON_FINITE if self._saw_non_finite else 0))
        if flag == _NON_FINITE:
            self._non_finite.check_steps(self.state)
        elif flag:
            raise Interrupted(flag)
        self.schedules.begin_step(self.state.global_step)
        self._loader.prefetch()

    def count_step(self) -> None:
        """Note that a step has been made."""
        self.state.global_step += 1
        self.state.batch_in_epoch += 1

    def _finish_step(self, sums: Tensor, size: int, progress: ProgressDisplay, steps: int = 1) -> None:
        for _ in range(steps):
            self.count_step()
        means = self._loss_monitor.poll(sums, size, steps)
        self._saw_non_finite = means is not None and not isfinite(means[0].item())
        for _ in range(steps - 1):
            progress.step(None)
        progress.step(_progress_values(means) if means is not None and progress.needs_metrics() else None)

    def _end_epoch(
        self, totals: Tensor, seconds: float, shutdown: GracefulShutdown, progress: ProgressDisplay
    ) -> None:
        """Validate, evaluate, step the schedule of the learning rate, and log."""
        state, epoch, means = self.state, self.state.epoch + 1, totals / len(self._train)
        metrics = self.dist.run_on_main_and_broadcast(lambda: self._epoch_metrics(means, epoch, shutdown))
        metrics["train/learning_rate"] = float(self._optimizer.param_groups[0]["lr"])
        metrics |= {f"loss/{name}": value for name, value in self.schedules.values().items()}
        metrics |= {"time/epoch_seconds": seconds, "time/images_per_second": sum(self._batch_sizes) / seconds}
        self._step_scheduler(metrics[self.options.monitor])
        state.epoch, state.batch_in_epoch, state.epoch_seconds, state.metrics = epoch, 0, 0.0, metrics
        self._rng.end_epoch()
        for tracker in self._trackers:
            tracker.log({"epoch": epoch, **metrics}, state.global_step)
        state.metrics_rows += 1
        progress.epoch(epoch, totals[0].item() / len(self._batch_sizes), metrics)

    def _epoch_metrics(self, means: Tensor, epoch: int, shutdown: GracefulShutdown) -> dict[str, float]:
        """The metrics of an epoch, of the average weights where there is an average."""
        metrics = loss_term_metrics("train", means)
        self._non_finite.check_metrics(metrics, self.state)
        metrics["train/grad_norm"] = self.train_step.grad_norm().item()
        with self._average_weights():
            with measure_phase(self.phase_seconds, "validation"):
                self._variance.update(shutdown)
                metrics |= self._validator.run(shutdown)
            self._non_finite.check_metrics(metrics, self.state)
            with measure_phase(self.phase_seconds, "evaluators"):
                due = self._evaluator_loop.due_at_epoch(epoch)
                metrics = self._evaluator_loop.run(due, self.state.global_step, shutdown, epoch) | metrics
            for name, message in (self._collapse.update(metrics) if self._collapse else {}).items():
                if self._add_warning(name, message, epoch):
                    _log.warning("%s, epoch %d: %s", name.replace("_", " ").capitalize(), epoch, message)
        if self._graph_fallback:
            message = f"steps are not captured as a CUDA graph ({self._graph_fallback})."
            self._add_warning("no_cuda_graph", message, epoch)
        return metrics

    def _add_warning(self, name: str, message: str, epoch: int) -> bool:
        """Keep the first warning of a name for checkpoints, trackers and `result.json`; whether this is it."""
        if any(warning["name"] == name for warning in self.warnings):
            return False
        self.warnings.append({"name": name, "epoch": epoch, "message": message})
        for tracker in self._trackers:
            tracker.warn(name.replace("_", " "), f"epoch {epoch}: {message}")
        return True

    def _step_scheduler(self, monitored: float) -> None:
        try:
            if isinstance(self._scheduler, ReduceLROnPlateau):
                self._scheduler.step(monitored)
            elif self._scheduler is not None:
                self._scheduler.step()
        except (ValueError, ArithmeticError) as error:
            raise UserError(
                f"scheduler cannot continue after epoch {self.state.epoch + 1} of {self.options.epochs}: {error}; "
                f"its length must fit trainer.epochs."
            ) from error

    def _checkpoint(self) -> None:
        state = self.state
        improved = self.best.update(state.metrics[self.options.monitor], state.epoch)
        if self.dist.is_main:
            with measure_phase(self.phase_seconds, "checkpoints"):
                self._checkpoints.on_epoch_end(self.state_dict, state.epoch, improved=improved)

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs: tensors and plain values alone."""
        state = self.state
        return {
            **self._checkpoint_metadata,
            "epoch": state.epoch,
            "step": state.global_step,
            "batches": state.batch_in_epoch,
            "rows": self.loss_buffer.rows[: state.batch_in_epoch].clone(),
            "grad_norm": self.train_step.grad_norm().item(),
            "seconds": state.train_seconds,
            "epoch_seconds": state.epoch_seconds,
            "metrics": state.metrics,
            "lines": state.metrics_rows,
            "warnings": list(self.warnings),
            "collapse": None if self._collapse is None else self._collapse.state_dict(),
            "best": {"monitor": self.options.monitor, **self.best.state_dict()},
            "vae": self.vae.state_dict(),
            "average": None if self._ema is None else self._ema.state_dict(),
            "optimizer": optimizer_state(self._optimizer),
            "scheduler": None if self._scheduler is None else self._scheduler.state_dict(),
            "generators": self._rng.state_dict(),
        }


def _batch_sizes(count: int, batch_size: int, dist: DistributedContext) -> list[int]:
    """The batch sizes of an epoch.

    Raises:
        UserError: if the last batch leaves a process without images.
    """
    whole, rest = divmod(count, batch_size)
    sizes = [batch_size] * whole + [rest] * (rest > 0)
    if sizes and sizes[-1] < dist.world_size:
        raise UserError(
            f"trainer.batch_size={sizes[0]} leaves a last batch of {sizes[-1]} images for {dist.world_size} "
            f"processes; choose one that leaves at least {dist.world_size}, or none."
        )
    return sizes


def _group_steps(sizes: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """Batch sizes, each with the number of steps to make as one: `most` of equal size, the others one by one."""
    for size, group in groupby(sizes):
        count = len(list(group))
        yield from [(size, most)] * (count // most) + [(size, 1)] * (count % most)


def _progress_values(means: Tensor) -> dict[str, float]:
    loss, distortion, rate = means.tolist()
    return {"loss": loss, "rate": rate, "distortion": distortion}
