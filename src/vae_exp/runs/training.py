"""A training run from a composed config to `result.json`."""

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from vae_exp.configuration.instantiate import (
    build_evaluators,
    build_loss,
    build_optimizer,
    build_scheduler,
    build_splits,
    build_vae,
    check_evaluators,
    check_labels,
    init_output_bias,
)
from vae_exp.configuration.schema import TrainConfig, checked, resolve_to_dict
from vae_exp.configuration.stored_config import changed
from vae_exp.configuration.target_allowlist import resolver_calls
from vae_exp.configuration.validation import check_unused_overrides
from vae_exp.data.batch_loader import place
from vae_exp.data.images import ImageSet
from vae_exp.engine.device import check_precision_supported, device_name, oom_error, resolve_device
from vae_exp.engine.distributed import DistributedContext, init_distributed, local_rank_device
from vae_exp.engine.progress import NullProgress, ProgressDisplay, progress_display
from vae_exp.engine.protocols import Pruner
from vae_exp.engine.seeding import make_generator, seed_everything, set_deterministic
from vae_exp.engine.shutdown import GracefulShutdown
from vae_exp.engine.threads import choose_threads, count_step_flops, cpu_threads, thread_variable
from vae_exp.engine.train_step import compiler_error, resolve_execution_mode
from vae_exp.engine.trainer import Trainer, TrainerOptions
from vae_exp.errors import DivergedError, Interrupted, TrialPruned, UserError
from vae_exp.evaluation.loss_check import audit
from vae_exp.model.vae import VAE
from vae_exp.objective.loss_terms import Loss
from vae_exp.runs.result import end_unstarted, ended, log_traceback
from vae_exp.runs.resume import ResumeState, load_resume_state, repair_checkpoints
from vae_exp.storage.plain_files import read_yaml
from vae_exp.storage.run_directory import RunDirectory, owned, write_atomically, write_json
from vae_exp.sweep.job_id import config_hash
from vae_exp.sweep.job_records import read_overrides
from vae_exp.sweep.manifest import swept_keys
from vae_exp.tracking.metrics_file import MetricsFile
from vae_exp.tracking.wandb_tracker import WandbTracker

_log = logging.getLogger(__name__)
_AUDITED = 2000


@dataclass
class TrainingSetup:
    """Everything that a run needs before its first step."""

    trainer: Trainer
    wandb: WandbTracker | None
    device: torch.device
    options: TrainerOptions
    pruner: Pruner | None
    steps_per_epoch: int
    config_hash: str
    audit: dict[str, Any] | None
    threads: int
    print_batch_sum: bool

    def progress(self, done: int) -> ProgressDisplay:
        """What shows the progress of training, after that many steps."""
        return progress_display(
            self.options.epochs, self.steps_per_epoch, done, with_batch_sum=self.print_batch_sum
        )


def train(config: DictConfig, directory: RunDirectory, guard: GracefulShutdown) -> dict[str, Any]:
    """Train as the config says, and leave everything in the run directory.

    Args:
        config: The composed config, without Hydra's section.
        directory: The run directory; made by the caller.
        guard: Notes Ctrl-C and SIGTERM.

    Returns:
        What `result.json` holds.

    Raises:
        UserError: if the run cannot start; nothing of the directory is left then.
        DivergedError: if the loss is no longer finite.
        Interrupted: on Ctrl-C or SIGTERM, after checkpoint, tracker and result have been written.
    """
    with owned(directory):
        directory.require_free()  # another process may have trained here since the callback looked
        return begin(config, directory, None, guard)


def begin(
    config: DictConfig,
    directory: RunDirectory,
    sweep: str | None,
    guard: GracefulShutdown,
    wandb_run_id: str | None = None,
    may_download: bool = True,
) -> dict[str, Any]:
    """As `train`, in a directory that this process owns; a job of a sweep leaves its reason if it cannot start.

    Args:
        config: As `train` has it.
        directory: The run's.
        sweep: Its name; None outside of one.
        guard: As `train` has it.
        wandb_run_id: The W&B run of an attempt that came to nothing, which goes on; None begins a new one.
        may_download: Whether missing data may be downloaded.
    """
    began = time.time()
    metrics_file = MetricsFile(directory.metrics)
    with closing(metrics_file):
        try:
            directory.remove_temp_files()
            _write_config(config, directory)
            metrics_file.begin()
            guard.raise_if_requested()
            check_unused_overrides(config, _choices())
            prepared = _prepare(config, directory, sweep, metrics_file, None, wandb_run_id, may_download)
        except Exception as error:
            end_unstarted(error, directory, began, keep_reason=sweep is not None)
            raise
        return _fit(prepared, directory, guard, began)


def resume(
    asked: DictConfig, overrides: Sequence[str], directory: RunDirectory, guard: GracefulShutdown
) -> dict[str, Any]:
    """Go on with the run of a directory from its last checkpoint, to the bit.

    Args:
        asked: The config that the command line composes.
        overrides: The overrides of the command line.
        directory: The run's.
        guard: Notes Ctrl-C and SIGTERM.

    Returns:
        What `result.json` holds.

    Raises:
        UserError: if it cannot go on; the directory is left as it was.
        DivergedError: if the loss is no longer finite.
        Interrupted: on Ctrl-C or SIGTERM, after checkpoint, tracker and result have been written.
    """
    with owned(directory):
        return go_on(load_resume_state(directory, asked, overrides), directory, None, guard)


def go_on(
    resumption: ResumeState, directory: RunDirectory, sweep: str | None, guard: GracefulShutdown
) -> dict[str, Any]:
    """As `resume`, in a directory that this process owns; `sweep` names the sweep that the run is a job of."""
    began, state = time.time(), resumption.state
    guard.raise_if_requested()
    metrics_file = MetricsFile(directory.metrics, resumption.lines, resumption.last_row)
    with closing(metrics_file):
        prepared = _prepare(
            resumption.config, directory, sweep, metrics_file, state, may_download=resumption.may_download
        )
        directory.remove_temp_files()
        if state is not None:
            repair_checkpoints(directory, state, resumption.checkpoint)
        metrics_file.begin()
        directory.result.unlink(missing_ok=True)
        _save_config(_settled(resumption.config), directory.config)
        _tell_resumed(directory, prepared)
        return _fit(prepared, directory, guard, began)


def _tell_resumed(directory: RunDirectory, prepared: TrainingSetup) -> None:
    done, wanted = prepared.trainer.state.epoch, prepared.options.epochs
    _log.info("Resuming %s after %d of %d epochs.", directory.path, done, wanted)
    if prepared.trainer.state.stopped_early:
        _log.info("Its training had stopped early, and stays so: raise trainer.early_stopping.patience to go on.")
    elif done >= wanted:
        _log.info("Its training is already finished: raise trainer.epochs to go further.")


def assist(asked: DictConfig, overrides: Sequence[str], directory: RunDirectory, guard: GracefulShutdown) -> None:
    """Take part in a run that another process of the team leads; nothing is written.

    Args:
        asked: The config that the command line composes.
        overrides: The overrides of the command line.
        directory: Of the run that is resumed; not used for a new one.
        guard: Notes Ctrl-C and SIGTERM.
    """
    config, state, may_download = asked, None, True
    if asked.resume:
        resumption = load_resume_state(directory, asked, overrides)
        config, state, may_download = resumption.config, resumption.state, resumption.may_download
    else:
        check_unused_overrides(asked, _choices())
    prepared = _prepare(config, directory, None, None, state, may_download=may_download)
    trainer = prepared.trainer
    try:
        with cpu_threads(prepared.threads):
            trainer.fit(guard, NullProgress(), prepared.pruner)
            trainer.run_final_evaluators(guard)
    finally:
        trainer.dist.shutdown()


def _prepare(
    config: DictConfig,
    directory: RunDirectory,
    sweep: str | None,
    metrics_file: MetricsFile | None,
    state: Mapping[str, Any] | None,
    wandb_run_id: str | None = None,
    may_download: bool = True,
) -> TrainingSetup:
    """Build everything; a process without `metrics_file` assists another and tracks nothing."""
    wandb_run_id = wandb_run_id if state is None else state.get("wandb_run_id")
    settings = checked(config, TrainConfig)
    device = resolve_device(local_rank_device(settings.trainer.device))
    if device.type == "cuda":
        torch.cuda.set_device(device)  # pinned memory and NCCL would start a context on the first GPU otherwise
    check_precision_supported(settings.trainer.precision, device)
    set_deterministic(settings.trainer.deterministic)
    resolve_execution_mode(settings.trainer.step, device, DistributedContext())
    seed_everything(settings.seed)
    splits = build_splits(settings.data, may_download)
    resident = settings.data.resident
    plain = resolve_to_dict(config, splits.image_shape)
    vae = build_vae(plain["model"], splits.image_shape)
    check_labels(vae, splits.train, "training")
    check_labels(vae, splits.val, "validation")
    init_output_bias(vae, settings.model.output_bias, splits.train)
    batch_size = settings.trainer.batch_size
    if batch_size > len(splits.train):
        raise UserError(f"trainer.batch_size={batch_size} is larger than the {len(splits.train)} training images.")
    keeps_all = settings.trainer.precision != "bf16" and settings.trainer.step != "compile"  # these keep less
    counted_on = device if keeps_all else None
    loss = build_loss(plain["loss"], vae, splits.image_shape, len(splits.train), batch_size, counted_on)
    options = _options(settings, loss, splits.train, splits.val)
    evaluators = build_evaluators(plain["evaluator"])
    scored = splits.val if len(splits.val) else splits.train
    check_evaluators(evaluators, vae, scored.settled())
    found = _audited(settings.seed, vae, loss, splits.train, state) if metrics_file is not None else None
    threads = _threads(settings, state, device, vae, loss, splits.train)
    vae.to(device)
    train, val = place(splits.train, device, resident), place(splits.val, device, resident)
    optimizer = build_optimizer(plain["optimizer"], vae.parameters())
    scheduler = build_scheduler(plain["scheduler"], optimizer)
    dist = init_distributed(settings.trainer.distributed, device)
    wandb = None
    if metrics_file is not None:
        wandb = _start_wandb(settings, plain, directory, sweep, wandb_run_id)
    identity: dict[str, Any] = {
        "config_hash": config_hash(config),
        "image_shape": splits.image_shape,
        "wandb_run_id": wandb.run_id if wandb else wandb_run_id,
        "schedule": plain["scheduler"],
        "audit": found,
        "threads": threads,
    }
    trainer = Trainer(
        vae=vae,
        loss=loss,
        optimizer=optimizer,
        scheduler=scheduler,
        train=train,
        val=val,
        evaluators=evaluators if dist.is_main else {},
        trackers=[each for each in (metrics_file, wandb) if each is not None],
        directory=directory,
        options=options,
        checkpoint_metadata=identity,
        dist=dist,
    )
    if state is not None:
        _load(trainer, state, directory, replan=state.get("schedule", plain["scheduler"]) != plain["scheduler"])
    if metrics_file is not None:
        _announce(vae, device, threads, train, val)
    steps = -(-len(train) // options.batch_size)
    batch_sum = settings.trainer.print_batch_sum
    return TrainingSetup(
        trainer,
        wandb,
        device,
        options,
        _pruner(settings),
        steps,
        identity["config_hash"],
        found,
        threads,
        batch_sum,
    )


def _load(trainer: Trainer, state: Mapping[str, Any], directory: RunDirectory, *, replan: bool) -> None:
    if replan:
        _log.info("The schedule of the learning rate is planned anew for the epochs that are now asked for.")
    try:
        trainer.load_state_dict(state, replan=replan)
    except (RuntimeError, KeyError, ValueError, TypeError, IndexError) as error:
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{directory.checkpoint('last')} does not fit the run of {directory.config}, from which its "
            f"architecture follows: {told}"
        ) from error


def _audited(
    seed: int, vae: VAE, loss: Loss, images: ImageSet, state: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """What the loss means on these data; said once, at the start of a run, and kept for its resumptions."""
    if state is not None:
        known: dict[str, Any] | None = state.get("audit")
        return known
    found = audit(vae, loss, images.first(_AUDITED).settled(), make_generator(seed, "evaluation", images.device))
    first, *concerns = found.lines()
    _log.info(first)
    for concern in concerns:
        _log.warning(concern)
    return found.as_dict()


def _threads(
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
        flops = count_step_flops(vae, loss, images.first(2).settled(), settings.trainer.batch_size)
    threads = choose_threads(requested, flops)
    if settings.trainer.threads not in ("auto", None, threads):
        reason = f"{thread_variable()} is set" if thread_variable() else "there are no more cores"
        _log.warning("trainer.threads=%s is not used: %s; %d instead.", settings.trainer.threads, reason, threads)
    return threads


def _announce(vae: VAE, device: torch.device, threads: int, train: ImageSet, val: ImageSet) -> None:
    source = f" by {thread_variable()}" if thread_variable() else ""
    on_cpu = f", {threads} thread{'s' * (threads > 1)}{source}" if device.type == "cpu" else ""
    _log.info(
        "Training %s parameters on %s%s: %d training and %d validation images of %s%s.",
        f"{sum(parameter.numel() for parameter in vae.parameters()):,}",
        device_name(device),
        on_cpu,
        len(train),
        len(val),
        train.image_shape,
        "" if train.is_resident else ", streamed from host memory",
    )


def _fit(
    prepared: TrainingSetup, directory: RunDirectory, guard: GracefulShutdown, began: float
) -> dict[str, Any]:
    trainer = prepared.trainer
    status, error = "failed", None
    exit_code = 1
    try:
        guard.raise_if_requested()
        done = trainer.state.global_step
        with cpu_threads(prepared.threads):
            trainer.fit(guard, prepared.progress(done), prepared.pruner)
            trainer.run_final_evaluators(guard)
        status, exit_code = "completed", 0
    except TrialPruned:
        status, exit_code = "pruned", 0
    except Interrupted as interruption:
        status, error, exit_code = "interrupted", str(interruption), interruption.exit_code
        raise
    except DivergedError as divergence:
        status, error = "diverged", str(divergence)
        raise
    except SystemExit as leaving:
        status, error = "interrupted", f"exited with code {leaving.code}"
        raise
    except BaseException as failure:
        told = oom_error(failure, prepared.options.batch_size, prepared.device) or compiler_error(failure)
        error = str(told) if told else f"{type(failure).__name__}: {failure}"
        log_traceback(directory)
        if told:
            raise told from failure
        raise
    finally:
        result = _record(prepared, directory, status, error, began)
        if prepared.wandb:
            prepared.wandb.finish(exit_code, status)
            result = _record(prepared, directory, status, error, began)
        trainer.dist.shutdown()
    return result


def _record(
    prepared: TrainingSetup, directory: RunDirectory, status: str, error: str | None, began: float
) -> dict[str, Any]:
    result = ended(
        prepared.trainer,
        status=status,
        error=error,
        began=began,
        device=prepared.device,
        threads=prepared.threads,
        config_hash=prepared.config_hash,
        audit=prepared.audit,
        wandb=prepared.wandb.description if prepared.wandb else None,
    )
    write_json(directory.result, result)
    return result


def _write_config(config: DictConfig, directory: RunDirectory) -> None:
    """Write `.hydra`, the config last: with it the run can be resumed, so by then the rest must be there."""
    if HydraConfig.initialized():
        hydra: Any = HydraConfig.instance().cfg
        _save_config(hydra, directory.hydra_config)
        _save_config(hydra.hydra.overrides.task, directory.overrides)
    _save_config(_settled(config), directory.config)


def _choices() -> dict[str, Any]:
    """The options that Hydra was asked for; none where it has composed nothing."""
    if not HydraConfig.initialized():
        return {}
    return dict(HydraConfig.get().runtime.choices)


def _settled(config: DictConfig) -> DictConfig:
    """The config with the moment at which it was started, not with a word for now.

    Raises:
        UserError: if another value depends on when it is read, so that the run could not be opened again.
    """
    started = OmegaConf.select(config, "sweep.started")
    settled = config if started is None else changed(config, {"sweep.started": started})
    for call in resolver_calls(OmegaConf.to_container(settled, resolve=False)):
        raise UserError(
            f"{call} calls a resolver, which may answer otherwise when the run is opened; give the value."
        )
    return settled


def _save_config(config: Any, path: Path) -> None:
    write_atomically(path, lambda file: file.write(OmegaConf.to_yaml(config).encode()))


def _options(settings: TrainConfig, loss: Loss, train: ImageSet, val: ImageSet) -> TrainerOptions:
    trainer = settings.trainer
    monitor = trainer.monitor or f"{'val' if len(val) else 'train'}/{getattr(loss, 'monitor', 'loss')}"
    known = [
        f"{split}/{name}"
        for split in ("train", *(["val"] if len(val) else []))
        for name in ("loss", "distortion", "rate")
    ]
    if monitor not in known:
        raise UserError(
            f"trainer.monitor={monitor} is not minimised here; use one of {', '.join(known)}, or null."
        )
    return TrainerOptions(
        epochs=trainer.epochs,
        batch_size=trainer.batch_size,
        reduction=settings.loss["reduction"],
        seed=settings.seed,
        monitor=monitor,
        patience=trainer.early_stopping.patience,
        min_delta=trainer.early_stopping.min_delta,
        execution=trainer.step,
        precision=trainer.precision,
        max_grad_norm=trainer.gradient_clip,
        ema_decay=trainer.ema_decay,
        warn_posterior_collapse=trainer.collapse_monitor,
        checkpoint_every_n_epochs=settings.checkpoint.every_n_epochs,
        checkpoint_every_n_seconds=settings.checkpoint.every_n_seconds,
    )


def _pruner(settings: TrainConfig) -> Pruner | None:
    trial = settings.sweep.trial
    if trial.journal is None or not trial.prune:
        return None
    from vae_exp.sweep.search.pruning import TrialReporter

    return TrialReporter(Path(trial.journal), trial.number)


def _run_name(directory: RunDirectory) -> str:
    """`digits-mlp_19-26-15-c04f2e13`: the data and the model of a single run, and its directory's name."""
    try:
        choices = read_yaml(directory.hydra_config)["hydra"]["runtime"]["choices"]
        return f"{choices['data']}-{choices['model']}_{directory.path.name}"
    except (OSError, UserError, KeyError, TypeError):  # none of Hydra's files is needed
        return directory.path.name


def _start_wandb(
    settings: TrainConfig,
    plain: dict[str, Any],
    directory: RunDirectory,
    sweep: str | None,
    run_id: str | None,
) -> WandbTracker | None:
    tracker = settings.tracker
    if tracker.mode == "none":
        return None
    config = {**plain, "run_directory": str(directory.path)}
    if sweep is not None:
        config["swept"] = swept_keys(directory.path.parent, read_overrides(directory.overrides))
    return WandbTracker(
        mode=tracker.mode,
        root=Path(tracker.root),
        project=tracker.project,
        group=tracker.group or sweep,
        job_type="train" if sweep is None else "sweep",
        name=tracker.name or (directory.path.name if sweep else _run_name(directory)),
        tags=tracker.tags,
        config=config,
        run_id=run_id,
    )
