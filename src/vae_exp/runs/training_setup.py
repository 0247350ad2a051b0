"""What a training run needs before its first step: data, model, loss, optimizer, trackers and trainer."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from omegaconf import DictConfig

from vae_exp.configuration.instantiate import (
    build_evaluators,
    build_loss,
    build_optimizer,
    build_scheduler,
    build_splits,
    build_vae,
    init_codebook,
    init_output_bias,
)
from vae_exp.configuration.parsing import parse_config, resolve_to_dict
from vae_exp.configuration.resolvers import config_hashes
from vae_exp.configuration.schema import TrainConfig
from vae_exp.configuration.shape_checks import check_evaluators, check_labels
from vae_exp.data.batch_loader import move_to_device
from vae_exp.data.images import ImageSet
from vae_exp.data.splits import DataSplits
from vae_exp.engine import torchrun
from vae_exp.engine.cpu_settings import speed_up_cpu
from vae_exp.engine.device import check_precision_supported, device_name, resolve_device
from vae_exp.engine.distributed import DistributedContext, init_distributed, local_rank_device
from vae_exp.engine.phase_seconds import measure_phase
from vae_exp.engine.progress import NullProgress, ProgressDisplay, progress_display
from vae_exp.engine.protocols import Evaluator, Pruner
from vae_exp.engine.seeding import make_generator, seed_everything, set_deterministic
from vae_exp.engine.shutdown import GracefulShutdown
from vae_exp.engine.thread_variables import thread_variable
from vae_exp.engine.threads import choose_threads, count_step_flops
from vae_exp.engine.train_step import resolve_execution_mode
from vae_exp.engine.trainer import Trainer
from vae_exp.engine.trainer_options import TrainerOptions
from vae_exp.errors import UserError, quantity
from vae_exp.evaluation.loss_check import check_loss
from vae_exp.model.vae import VAE
from vae_exp.objective.loss_terms import Loss
from vae_exp.runs.result import git_state
from vae_exp.runs.resume import ResumeState, check_same_data
from vae_exp.runs.wandb_run import start_wandb
from vae_exp.runs.warm_start import freeze, initialize_from_run
from vae_exp.storage.run_directory import RunDirectory
from vae_exp.tracking.metrics_file import JsonlMetrics
from vae_exp.tracking.wandb_tracker import WandbTracker

_log = logging.getLogger(__name__)

_LOSS_CHECK_IMAGES = 2000

_STEPS = {"eager": "eager steps", "graph": "steps captured as a CUDA graph", "compile": "compiled steps"}


@dataclass
class SharedImages:
    """The images of jobs with the same `data` that train in one process; the first job sets them."""

    splits: DataSplits | None = None
    on_device: tuple[ImageSet, ImageSet] | None = None


@dataclass(frozen=True)
class SweepJob:
    """What a sweep passes to the run that is one of its jobs; without values it is that of a run on its own.

    Args:
        sweep: The name of the sweep; None outside a sweep.
        overrides: The values of the job that affect its result, by key.
        swept: Those in which the jobs of the sweep differ.
        pruner: Asked after every epoch whether to end the run.
        wandb_run_id: The W&B run to continue; None starts one.
        may_download: Whether missing data may be downloaded.
        shared_images: Those of the jobs of this process; None for a job that is alone in it.
    """

    sweep: str | None = None
    overrides: Mapping[str, str] = field(default_factory=dict)
    swept: Mapping[str, str] = field(default_factory=dict)
    pruner: Pruner | None = None
    wandb_run_id: str | None = None
    may_download: bool = True
    shared_images: SharedImages | None = None

    @property
    def is_alone(self) -> bool:
        """Whether no other run of this process trains at the same time."""
        return self.shared_images is None


@dataclass
class TrainingSetup:
    """Everything that a run needs before its first step; a process that is not the main one has no `wandb`."""

    trainer: Trainer
    settings: TrainConfig
    device: torch.device
    threads: int
    metadata: dict[str, Any]
    wandb: WandbTracker | None
    pruner: Pruner | None

    def progress(self) -> ProgressDisplay:
        """What shows the progress of training from here on."""
        if not torchrun.is_main_process():
            return NullProgress()
        trainer = self.trainer
        return progress_display(
            self.settings.trainer.epochs,
            trainer.steps_per_epoch,
            trainer.state.global_step,
            with_batch_sum=self.settings.trainer.print_batch_sum,
        )


def set_up(
    config: DictConfig,
    run_dir: RunDirectory,
    metrics_file: JsonlMetrics | None,
    resume_state: ResumeState | None,
    job: SweepJob,
    phases: dict[str, float],
    shutdown: GracefulShutdown,
) -> TrainingSetup:
    """Build data, model, loss, optimizer, trackers and trainer; without `metrics_file` nothing is tracked."""
    state = None if resume_state is None else resume_state.state
    settings = parse_config(config, TrainConfig)
    device = _set_up_process(settings)
    with measure_phase(phases, "data"):
        splits = _make_splits(settings, resume_state, job)  # imports: a signal must not leave half a module
        with shutdown.at_once():
            images = _open_images(settings, splits, run_dir, resume_state)
    with measure_phase(phases, "build"):
        plain, val = resolve_to_dict(config, splits.image_shape), splits.val
        vae, loss = _build_model(settings, plain, images, val, device, is_resumed=state is not None)
        options = _options(settings, loss, val)
        evaluators = _build_evaluators(plain, vae, val if len(val) else images)
        loss_check = _check_loss(settings.seed, vae, loss, images, state) if metrics_file else None
        threads = _choose_threads(settings, state, device, vae, loss, images)
        train, val = _on_device(settings, images, val, device, job)
        optimizer = build_optimizer(plain["optimizer"], vae.to(device).parameters(), may_be_flat=job.is_alone)
        scheduler = build_scheduler(plain["scheduler"], optimizer)
    dist = init_distributed(settings.trainer.strategy, device)
    run_id = state.get("wandb_run_id") if state is not None else job.wandb_run_id
    start = partial(start_wandb, sweep=job.sweep, overrides=job.overrides, swept=job.swept, is_alone=job.is_alone)
    with measure_phase(phases, "tracker"):
        wandb = start(settings.tracker, plain, run_dir, state, run_id) if metrics_file else None
    metadata = _checkpoint_metadata(config, splits) | {
        "wandb_run_id": wandb.run_id if wandb else run_id,
        "schedule": plain["scheduler"],
        "loss_check": loss_check,
        "threads": threads,
    }
    with measure_phase(phases, "build"):
        trainer = Trainer(
            vae=vae,
            loss=loss,
            optimizer=optimizer,
            scheduler=scheduler,
            train=train,
            val=val,
            evaluators=evaluators if dist.is_main else {},
            trackers=[tracker for tracker in (metrics_file, wandb) if tracker is not None],
            directory=run_dir,
            options=options,
            checkpoint_metadata=metadata,
            dist=dist,
        )
        if state is not None:
            _load(trainer, state, run_dir, replan=state.get("schedule", plain["scheduler"]) != plain["scheduler"])
    if metrics_file:
        _log_start(trainer, threads, train, val, is_alone=job.is_alone)
    return TrainingSetup(trainer, settings, device, threads, metadata, wandb, job.pruner)


def _checkpoint_metadata(config: DictConfig, splits: DataSplits) -> dict[str, Any]:
    """Which config, data and code a checkpoint is of."""
    return {
        **config_hashes(config),
        "image_shape": splits.image_shape,
        "data": splits.fingerprints,
        "git": git_state(),
    }


def _set_up_process(settings: TrainConfig) -> torch.device:
    """Seed this process and set torch's switches; the device of training."""
    speed_up_cpu()
    device = resolve_device(local_rank_device(settings.trainer.device))
    if device.type == "cuda":
        torch.cuda.set_device(device)  # pinned memory and NCCL would start a context on the first GPU otherwise
    check_precision_supported(settings.trainer.precision, device)
    set_deterministic(settings.trainer.deterministic)
    resolve_execution_mode(settings.trainer.execution, device, DistributedContext())
    seed_everything(settings.seed)
    return device


def _make_splits(settings: TrainConfig, resume_state: ResumeState | None, job: SweepJob) -> DataSplits:
    """The splits, which stacked jobs share; nothing is opened yet."""
    shared = job.shared_images or SharedImages()
    if shared.splits is None:
        shared.splits = build_splits(settings.data, (resume_state or job).may_download)
    return shared.splits


def _open_images(
    settings: TrainConfig, splits: DataSplits, run_dir: RunDirectory, resume_state: ResumeState | None
) -> ImageSet:
    """The images to train on."""
    if resume_state is not None:
        check_same_data(resume_state, splits.fingerprints, run_dir)
    return splits.train.take(settings.trainer.max_train_images)


def _on_device(
    settings: TrainConfig, images: ImageSet, val: ImageSet, device: torch.device, job: SweepJob
) -> tuple[ImageSet, ImageSet]:
    shared = job.shared_images or SharedImages()
    if shared.on_device is None:
        preload = settings.data.preload_to_device
        shared.on_device = move_to_device(images, device, preload), move_to_device(val, device, preload)
    return shared.on_device


def _build_model(
    settings: TrainConfig,
    plain: dict[str, Any],
    images: ImageSet,
    val: ImageSet,
    device: torch.device,
    *,
    is_resumed: bool,
) -> tuple[VAE, Loss]:
    vae = build_vae(plain["model"], images.image_shape)
    init_output_bias(vae, settings.model.output_bias, images)
    init_codebook(vae, images)
    batch_size = settings.trainer.batch_size
    if batch_size > len(images):
        raise UserError(
            f"trainer.batch_size={batch_size} is larger than the {len(images)} training images; set "
            f"trainer.batch_size={len(images)} or less."
        )
    keeps_all = settings.trainer.precision != "bf16" and settings.trainer.execution != "compile"  # these keep less
    counted_on = device if keeps_all else None
    loss = build_loss(plain["loss"], vae, images.image_shape, len(images), batch_size, counted_on)
    check_labels(vae, images, "training", loss)
    check_labels(vae, val, "validation", loss)
    if settings.initialize_from and not is_resumed:
        initialize_from_run(vae, settings.initialize_from, strict=settings.initialize_strict)
    freeze(vae, settings.model.freeze)
    return vae, loss


def _build_evaluators(plain: dict[str, Any], vae: VAE, images: ImageSet) -> dict[str, Evaluator]:
    evaluators = build_evaluators(plain["evaluator"])
    check_evaluators(evaluators, vae, images.with_fixed_binarization())
    return evaluators


def _load(trainer: Trainer, state: Mapping[str, Any], directory: RunDirectory, *, replan: bool) -> None:
    if replan:
        _log.info("The learning rate schedule is recomputed for the new number of epochs.")
    try:
        trainer.load_state_dict(state, replan=replan)
    except (RuntimeError, KeyError, ValueError, TypeError, IndexError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{directory.checkpoint('last')} does not fit the run of {directory.config}, from which its "
            f"architecture follows: {reason}"
        ) from error


def _check_loss(
    seed: int, vae: VAE, loss: Loss, images: ImageSet, state: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """What the loss means on these data; computed and logged at the start of a new run."""
    if state is not None:
        stored: dict[str, Any] | None = state.get("loss_check", state.get("audit"))
        return stored
    first_images = images.take(_LOSS_CHECK_IMAGES).with_fixed_binarization()
    report = check_loss(vae, loss, first_images, make_generator(seed, "evaluation", images.device))
    first, *warnings = report.to_log_lines()
    _log.info(first)
    for warning in warnings:
        _log.warning(warning)
    return report.as_dict()


def _choose_threads(
    settings: TrainConfig,
    state: Mapping[str, Any] | None,
    device: torch.device,
    vae: VAE,
    loss: Loss,
    images: ImageSet,
) -> int:
    """The number of CPU threads; a resumed run keeps that of its checkpoint, or torch's where it names none."""
    requested = settings.trainer.threads
    if requested == "auto" and (state is not None or device.type != "cpu"):
        requested = None if state is None else state.get("threads")
    flops = 0
    if requested == "auto":
        flops = count_step_flops(vae, loss, images.take(2).with_fixed_binarization(), settings.trainer.batch_size)
    threads = choose_threads(requested, flops)
    if settings.trainer.threads not in ("auto", None, threads):
        reason = f"{thread_variable()} is set" if thread_variable() else "there are no more cores"
        _log.warning("trainer.threads=%s is not used: %s; %d instead.", settings.trainer.threads, reason, threads)
    return threads


def _describe_parameters(vae: VAE) -> str:
    """How many parameters are trained, and of how many, where some are frozen."""
    trained, total = (
        sum(parameter.numel() for parameter in vae.parameters() if parameter.requires_grad or is_frozen_too)
        for is_frozen_too in (False, True)
    )
    return f"{trained:,} parameters" if trained == total else f"{trained:,} of {total:,} parameters"


def _log_start(trainer: Trainer, threads: int, train: ImageSet, val: ImageSet, *, is_alone: bool) -> None:
    source = f" by {thread_variable()}" if thread_variable() else ""
    on_cpu = f", {quantity(threads, 'thread')}{source}" if trainer.device.type == "cpu" else ""
    at_once = f", {trainer.steps_per_graph} in a graph" if trainer.steps_per_graph > 1 else ""
    steps = f"{_STEPS[trainer.execution]}{at_once}" if is_alone else "the steps of a stack"
    _log.info(
        "Training %s on %s%s, %s: %d training and %d validation images of %s%s.",
        _describe_parameters(trainer.vae),
        device_name(trainer.device),
        on_cpu,
        steps,
        len(train),
        len(val),
        train.image_shape,
        "" if train.is_resident else ", streamed from host memory",
    )


def _options(settings: TrainConfig, loss: Loss, val: ImageSet) -> TrainerOptions:
    trainer = settings.trainer
    monitor = trainer.monitor or f"{'val' if len(val) else 'train'}/{getattr(loss, 'monitor', 'loss')}"
    splits = ("train", "val") if len(val) else ("train",)
    monitors = [f"{split}/{name}" for split in splits for name in ("loss", "distortion", "rate")]
    if monitor not in monitors:
        raise UserError(
            f"trainer.monitor={monitor} is not minimised here; use one of {', '.join(monitors)}, or null."
        )
    return TrainerOptions(
        epochs=trainer.epochs,
        batch_size=trainer.batch_size,
        reduction=trainer.loss_reduction,
        seed=settings.seed,
        monitor=monitor,
        patience=trainer.early_stopping.patience,
        min_delta=trainer.early_stopping.min_delta,
        execution=trainer.execution,
        steps_per_graph=trainer.steps_per_graph if isinstance(trainer.steps_per_graph, int) else 1,  # auto
        precision=trainer.precision,
        max_grad_norm=trainer.max_grad_norm,
        ema_decay=trainer.ema_decay,
        warn_posterior_collapse=trainer.warn_posterior_collapse,
        checkpoint_every_n_epochs=settings.checkpoint.every_n_epochs,
        checkpoint_every_n_seconds=settings.checkpoint.every_n_seconds,
    )
