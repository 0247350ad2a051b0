"""A training run from a composed config to `result.json`."""

import logging
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from vae_exp.configuration.allowlist import resolver_calls
from vae_exp.configuration.stored_config import with_overrides
from vae_exp.configuration.validation import check_unused_overrides
from vae_exp.engine import torchrun
from vae_exp.engine.device import oom_error
from vae_exp.engine.shutdown import GracefulShutdown
from vae_exp.engine.threads import cpu_threads
from vae_exp.engine.throw_into import ThrowInto
from vae_exp.engine.train_step import compiler_error
from vae_exp.errors import DivergedError, Interrupted, TrialPruned, UserError
from vae_exp.runs.result import log_traceback, write_result, write_startup_failure
from vae_exp.runs.resume import ResumeState, repair_checkpoints
from vae_exp.runs.training_setup import SweepJob, TrainingSetup, set_up
from vae_exp.runs.wandb_run import log_best_checkpoint
from vae_exp.storage.atomic_io import write_atomically, write_json
from vae_exp.storage.run_directory import RunDirectory
from vae_exp.tracking.metrics_file import JsonlMetrics

_log = logging.getLogger(__name__)

PausedTraining = Generator[TrainingSetup, None, dict[str, Any] | None]


def run_training(run: PausedTraining, shutdown: GracefulShutdown) -> dict[str, Any] | None:
    """Train a run that is set up by `paused_training`, or the job of a sweep by `paused_job`, to its end.

    Args:
        run: What is set up, and what follows on training; of a job that is finished nothing.
        shutdown: Notes Ctrl-C and SIGTERM.

    Returns:
        The contents of `result.json`; None for a job that was finished before.

    Raises:
        UserError: if the run cannot start.
        DivergedError: if the loss is no longer finite.
        Interrupted: on Ctrl-C or SIGTERM, after checkpoint, tracker and result have been written.
    """
    try:
        setup = next(run)
        with cpu_threads(setup.threads):
            with ThrowInto(run):
                setup.trainer.fit(shutdown, setup.progress(), setup.pruner)
            next(run)
    except StopIteration as end:
        result: dict[str, Any] | None = end.value
        return result
    raise AssertionError("a run pauses once")


def paused_training(
    config: DictConfig,
    run_dir: RunDirectory,
    shutdown: GracefulShutdown,
    *,
    resume_state: ResumeState | None = None,
    job: SweepJob | None = None,
    phases: dict[str, float] | None = None,
) -> PausedTraining:
    """A new or a resumed run from its set-up to its result; it is paused once, where the trainer is to be fitted.

    The caller holds the lock of the directory. A process of torchrun that is not the main one takes part in the
    training and writes nothing. What goes wrong at the pause is thrown in.

    Args:
        config: The composed config, without Hydra's section; replaced by that of `resume_state`.
        run_dir: The run's directory.
        shutdown: Notes Ctrl-C and SIGTERM.
        resume_state: What the run continues from; None for a new run.
        job: What the sweep passes on, if the run is a job of one.
        phases: Seconds that have passed before, by phase; those of the run are added.

    Returns:
        The contents of `result.json`.

    Raises:
        UserError: if the run cannot start. A new run leaves nothing then, or, in a sweep, a `result.json` with the
            reason; a resumed one is left as it was.
        DivergedError: if the loss is no longer finite.
        Interrupted: on Ctrl-C or SIGTERM, after checkpoint, tracker and result have been written.
    """
    start, phases, job = time.time(), {} if phases is None else phases, job or SweepJob()
    config = config if resume_state is None else resume_state.config
    is_main, is_new = torchrun.is_main_process(), resume_state is None
    stored_rows = () if resume_state is None else (resume_state.lines, resume_state.last_row)
    metrics_file = JsonlMetrics(run_dir.metrics, *stored_rows) if is_main else None
    with closing(metrics_file) if metrics_file else nullcontext():
        with _failed_start(run_dir, start, job) if is_main and is_new else nullcontext():
            if metrics_file and is_new:
                run_dir.remove_temp_files()
                _write_config(config, run_dir)
                metrics_file.truncate_and_open()
            shutdown.raise_if_requested()
            if is_new:
                choices = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
                check_unused_overrides(config, choices)
            setup = set_up(config, run_dir, metrics_file, resume_state, job, phases, shutdown)
        if metrics_file and resume_state:
            _begin_resumed(run_dir, resume_state, metrics_file, setup)
        if setup.wandb:
            write_json(run_dir.wandb, setup.wandb.description)
        with _recorded_result(setup, run_dir, start, phases) as result:
            shutdown.raise_if_requested()
            yield setup
            setup.trainer.run_final_evaluators(shutdown)
    return result


@contextmanager
def _failed_start(run_dir: RunDirectory, start: float, job: SweepJob) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        write_startup_failure(error, run_dir, start, keep_reason=job.sweep is not None)
        raise


def _begin_resumed(
    run_dir: RunDirectory, resume_state: ResumeState, metrics_file: JsonlMetrics, setup: TrainingSetup
) -> None:
    """Change the files of a run from those of its last process to those of this one."""
    run_dir.remove_temp_files()
    if resume_state.state is not None:
        repair_checkpoints(run_dir, resume_state.state, resume_state.checkpoint)
    metrics_file.truncate_and_open()
    with suppress(UserError):  # of a damaged result, which is replaced
        earlier = run_dir.total_seconds(run_dir.read_result() or {}) or 0.0
        setup.trainer.previous_seconds = max(setup.trainer.previous_seconds, earlier)
    run_dir.result.unlink(missing_ok=True)
    _save_config(_settled(resume_state.config), run_dir.config)
    state, epochs = setup.trainer.state, setup.settings.trainer.epochs
    _log.info("Resuming %s after %d of %d epochs.", run_dir.path, state.epoch, epochs)
    if setup.trainer.stopped_early:
        _log.info("Training had stopped early and is not continued; raise trainer.early_stopping.patience.")
    elif state.epoch >= epochs:
        _log.info("Training is already finished; raise trainer.epochs to train longer.")


@contextmanager
def _recorded_result(
    setup: TrainingSetup, run_dir: RunDirectory, start: float, phases: Mapping[str, float]
) -> Iterator[dict[str, Any]]:
    """Write `result.json` at the end of a block, however it ends; the mapping has its contents then."""
    result: dict[str, Any] = {}
    status, error, exit_code = "failed", None, 1
    try:
        yield result
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
        batch_size = setup.settings.trainer.batch_size
        known = oom_error(failure, batch_size, setup.device) or compiler_error(failure)
        error = str(known) if known else f"{type(failure).__name__}: {failure}"
        if torchrun.is_main_process():
            log_traceback(run_dir)
        if known:
            raise known from failure
        raise
    finally:
        if torchrun.is_main_process():
            result |= write_result(setup, run_dir, status, error, start, phases)
            if setup.wandb:
                if status == "completed" and setup.settings.tracker.log_checkpoint == "best":
                    log_best_checkpoint(setup.wandb, run_dir, result)
                best = {name: value for name, value in result["metrics"].items() if name.startswith("best/")}
                setup.wandb.finish(exit_code, {"status": status, **best})
                result |= write_result(setup, run_dir, status, error, start, phases)
        setup.trainer.dist.shutdown()


def _write_config(config: DictConfig, directory: RunDirectory) -> None:
    """Write `.hydra`, the config last: with it the run can be resumed, so by then the rest must be there."""
    if HydraConfig.initialized():
        hydra: Any = HydraConfig.instance().cfg
        _save_config(hydra, directory.hydra_config)
        _save_config(hydra.hydra.overrides.task, directory.overrides)
    _save_config(_settled(config), directory.config)


def _settled(config: DictConfig) -> DictConfig:
    """The config with values in place of the expressions for its start time and the environment.

    Raises:
        UserError: if another value depends on when it is read, so that the run could not be opened again.
    """
    tracker: Any = OmegaConf.to_container(config.tracker, resolve=True)
    values = {f"tracker.{key}": value for key, value in tracker.items()}
    if OmegaConf.select(config, "sweep.started_at") is not None:
        values["sweep.started_at"] = config.sweep.started_at
    settled = with_overrides(config, values)
    for call in resolver_calls(OmegaConf.to_container(settled, resolve=False)):
        raise UserError(
            f"{call} calls a resolver, which may answer otherwise when the run is opened; give the value."
        )
    return settled


def _save_config(config: Any, path: Path) -> None:
    write_atomically(path, lambda file: file.write(OmegaConf.to_yaml(config).encode()))
