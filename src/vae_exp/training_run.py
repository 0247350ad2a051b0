"""A training run from a composed config to `result.json`."""

import logging
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from vae_exp import outcome
from vae_exp.build import (
    build_evaluators,
    build_loss,
    build_optimizer,
    build_scheduler,
    build_splits,
    build_vae,
)
from vae_exp.data.images import ImageSet
from vae_exp.engine.determinism import seed_process
from vae_exp.engine.device import choose_device, describe
from vae_exp.engine.interruption import InterruptGuard
from vae_exp.engine.progress import progress_display
from vae_exp.engine.protocols import Tracker
from vae_exp.engine.trainer import Recipe, Trainer
from vae_exp.errors import DivergedError, Interrupted, UserError
from vae_exp.run_directory import RunDirectory, write_json
from vae_exp.settings import TrainSettings, checked, plain_config
from vae_exp.sweep.identity import config_hash
from vae_exp.tracking.metrics_file import MetricsFile
from vae_exp.tracking.wandb_tracker import WandbTracker

_log = logging.getLogger(__name__)


@dataclass
class Prepared:
    """Everything that a run needs before its first step."""

    trainer: Trainer
    wandb: WandbTracker | None
    device: torch.device
    recipe: Recipe
    steps_per_epoch: int
    config_hash: str


def train(config: DictConfig, directory: RunDirectory, sweep: str | None, guard: InterruptGuard) -> dict[str, Any]:
    """Train as the config says, and leave everything in the run directory.

    Args:
        config: The composed config, without Hydra's section.
        directory: The run directory; made by the caller.
        sweep: The name of the sweep that the run is a job of; None for a run of its own.
        guard: Notes Ctrl-C and SIGTERM.

    Returns:
        What `result.json` holds.

    Raises:
        UserError: if the run cannot start; outside a sweep nothing of the directory is left then.
        DivergedError: if the loss is no longer finite.
        Interrupted: on Ctrl-C or SIGTERM, after checkpoint, tracker and result have been written.
    """
    began = time.time()
    if directory.holds_a_run():
        raise UserError(f"{directory.path} already holds a run; choose another directory.")
    metrics_file = MetricsFile(directory.metrics)
    with closing(metrics_file):
        try:
            _write_config(config, directory)
            guard.check()
            prepared = _prepare(config, directory, sweep, metrics_file)
        except Exception as error:
            outcome.end_unstarted(error, directory, began, keep_reason=sweep is not None)
            raise
        return _fit(prepared, directory, guard, began)


def _prepare(
    config: DictConfig, directory: RunDirectory, sweep: str | None, metrics_file: MetricsFile
) -> Prepared:
    settings = checked(config, TrainSettings)
    device = choose_device(settings.trainer.device)
    seed_process(settings.seed)
    splits = build_splits(settings.data)
    train, val = splits.train.to(device), splits.val.to(device)
    plain = plain_config(config, splits.image_shape)
    recipe = _recipe(settings, train, val)
    vae = build_vae(plain["model"], splits.image_shape)
    loss = build_loss(plain["loss"], vae, splits.image_shape)
    evaluators = build_evaluators(plain["evaluator"])
    vae.to(device)
    optimizer = build_optimizer(plain["optimizer"], vae.parameters())
    scheduler = build_scheduler(plain["scheduler"], optimizer)
    wandb = _start_wandb(settings, plain, directory, sweep)
    trackers: list[Tracker] = [metrics_file, *([wandb] if wandb else [])]
    identity: dict[str, Any] = {"config_hash": config_hash(config), "image_shape": splits.image_shape}
    trainer = Trainer(
        vae=vae,
        loss=loss,
        optimizer=optimizer,
        scheduler=scheduler,
        train=train,
        val=val,
        evaluators=evaluators,
        trackers=trackers,
        directory=directory,
        recipe=recipe,
        identity=identity,
    )
    parameters = sum(parameter.numel() for parameter in vae.parameters())
    _log.info(
        "Training %s parameters on %s: %d training and %d validation images of %s.",
        f"{parameters:,}",
        describe(device),
        len(train),
        len(val),
        splits.image_shape,
    )
    steps = -(-len(train) // recipe.batch_size)
    return Prepared(trainer, wandb, device, recipe, steps, identity["config_hash"])


def _fit(prepared: Prepared, directory: RunDirectory, guard: InterruptGuard, began: float) -> dict[str, Any]:
    trainer = prepared.trainer
    status, error = "failed", None
    exit_code = 1
    try:
        guard.check()
        trainer.fit(guard, progress_display(prepared.recipe.epochs, prepared.steps_per_epoch))
        trainer.finish(guard)
        status, exit_code = "completed", 0
    except Interrupted as interruption:
        status, error, exit_code = "interrupted", str(interruption), interruption.exit_code
        raise
    except DivergedError as divergence:
        status, error = "diverged", str(divergence)
        raise
    except BaseException as failure:
        error = f"{type(failure).__name__}: {failure}"
        outcome.log_traceback(directory)
        raise
    finally:
        result = _record(prepared, directory, status, error, began)
        if prepared.wandb:
            prepared.wandb.finish(exit_code)
            result = _record(prepared, directory, status, error, began)
    return result


def _record(
    prepared: Prepared, directory: RunDirectory, status: str, error: str | None, began: float
) -> dict[str, Any]:
    result = outcome.ended(
        prepared.trainer,
        status=status,
        error=error,
        began=began,
        device=prepared.device,
        config_hash=prepared.config_hash,
        wandb=prepared.wandb.description if prepared.wandb else None,
    )
    write_json(directory.result, result)
    return result


def _write_config(config: DictConfig, directory: RunDirectory) -> None:
    """Write `.hydra`, as Hydra would have done before anybody could claim the directory."""
    directory.config.parent.mkdir()
    OmegaConf.save(config, directory.config)
    if HydraConfig.initialized():
        hydra: Any = HydraConfig.instance().cfg
        OmegaConf.save(hydra, directory.hydra_config)
        OmegaConf.save(hydra.hydra.overrides.task, directory.overrides)


def _recipe(settings: TrainSettings, train: ImageSet, val: ImageSet) -> Recipe:
    trainer = settings.trainer
    if trainer.batch_size > len(train):
        raise UserError(
            f"trainer.batch_size={trainer.batch_size} is larger than the {len(train)} training images."
        )
    monitor = trainer.monitor or ("val/loss" if len(val) else "train/loss")
    known = [
        f"{split}/{name}"
        for split in ("train", *(["val"] if len(val) else []))
        for name in ("loss", "distortion", "rate")
    ]
    if monitor not in known:
        raise UserError(
            f"trainer.monitor={monitor} is not minimised here; use one of {', '.join(known)}, or null."
        )
    return Recipe(
        epochs=trainer.epochs,
        batch_size=trainer.batch_size,
        reduction=settings.loss["reduction"],
        seed=settings.seed,
        monitor=monitor,
        patience=trainer.early_stopping.patience,
        min_delta=trainer.early_stopping.min_delta,
    )


def _start_wandb(
    settings: TrainSettings, plain: dict[str, Any], directory: RunDirectory, sweep: str | None
) -> WandbTracker | None:
    tracker = settings.tracker
    if tracker.mode == "none":
        return None
    return WandbTracker(
        mode=tracker.mode,
        root=Path(tracker.root),
        project=tracker.project,
        group=tracker.group or sweep,
        name=tracker.name or directory.path.name,
        tags=tracker.tags,
        config={**plain, "run_directory": str(directory.path)},
    )
