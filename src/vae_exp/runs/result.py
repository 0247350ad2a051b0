"""How a run ended: what `result.json` says of it, and what is left of one that never started."""

import platform
import shutil
import subprocess
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import vae_exp
from vae_exp.engine.device import device_name
from vae_exp.errors import Interrupted, UserError
from vae_exp.storage.atomic_io import write_json
from vae_exp.storage.run_directory import RunDirectory
from vae_exp.tracking.metrics_file import read_rows

if TYPE_CHECKING:
    from vae_exp.runs.training_setup import TrainingSetup


def write_result(
    setup: "TrainingSetup",
    run_dir: RunDirectory,
    status: str,
    error: str | None,
    start: float,
    phases: Mapping[str, float],
) -> dict[str, Any]:
    """Write `result.json` of a run that has started.

    Args:
        setup: What has been trained, and with what.
        run_dir: The run's directory.
        status: `completed`, `pruned`, `interrupted`, `diverged` or `failed`.
        error: What ended it, if anything did.
        start: When this process started it, in seconds since the epoch.
        phases: Wall seconds of this process before training, by phase.

    Returns:
        Its contents.
    """
    trainer, state, best = setup.trainer, setup.trainer.state, setup.trainer.best
    wandb = setup.wandb.description if setup.wandb else None
    warnings = list(trainer.warnings)
    if wandb and wandb["error"]:
        message = f"Weights & Biases was lost: {wandb['error']}"
        warnings.append({"name": "tracker_lost", "epoch": state.epoch, "message": message})
    result = {
        "status": status,
        "error": error,
        "epochs": state.epoch,
        "steps": state.global_step,
        "stopped_early": trainer.stopped_early,
        "monitor": trainer.options.monitor,
        "best": {"epoch": best.epoch, "value": best.value},
        "warnings": warnings,
        # Evaluators at the end have the last word; the order is that of a run without them.
        "metrics": state.metrics | best_metrics(run_dir, best.epoch) | state.metrics,
        "seconds": {
            "training": round(state.train_seconds, 3),
            "total": round(trainer.previous_seconds + time.time() - start, 3),
        },
        "phase_seconds": {name: round(value, 3) for name, value in {**phases, **trainer.phase_seconds}.items()},
        "device": device_name(setup.device),
        "threads": setup.threads,
        "execution": trainer.execution,
        "precision": trainer.options.precision,
        "versions": _versions(),
        "git": setup.metadata["git"],
        "config_hash": setup.metadata["config_hash"],
        "loss_check": setup.metadata["loss_check"],
        "wandb": wandb,
    }
    write_json(run_dir.result, result)
    return result


def best_metrics(run_dir: RunDirectory, epoch: int) -> dict[str, float]:
    """The metrics on held-out images after the best epoch, on training images where none are held out.

    Args:
        run_dir: The run's directory.
        epoch: The best epoch, counted from 1; 0 before there is one.

    Returns:
        `best/epoch`, and each metric with `best/` before its name, such as `best/val/elbo`.
    """
    row = next((row for row in read_rows(run_dir.metrics) if row.get("epoch") == epoch), {})
    split = "val/" if any(name.startswith("val/") for name in row) else "train/"
    metrics = {f"best/{name}": value for name, value in row.items() if name.startswith(split)}
    return {"best/epoch": epoch, **metrics} if metrics else {}


def write_startup_failure(error: Exception, directory: RunDirectory, start: float, *, keep_reason: bool) -> None:
    """Record a run that ended before its first step.

    Args:
        error: Why.
        directory: Where it would have run.
        start: When it started, in seconds since the epoch.
        keep_reason: Whether an error of the user's leaves a `result.json` with its reason, as the table of a sweep
            needs it, or nothing at all. Other errors always leave one. The log keeps the traceback of other
            errors, and of an error of the user's that has a cause.
    """
    if isinstance(error, UserError) and not keep_reason:
        _discard(directory)
        return
    expected = isinstance(error, UserError | Interrupted)
    reason = str(error) if expected else f"{type(error).__name__}: {error}"
    if not expected or error.__cause__ is not None:
        log_traceback(directory)
    result = {
        "status": "interrupted" if isinstance(error, Interrupted) else "failed",
        "error": reason,
        "epochs": 0,
        "metrics": {},
        "seconds": {"total": round(time.time() - start, 3)},
        "versions": _versions(),
    }
    write_json(directory.result, result)


def log_traceback(directory: RunDirectory) -> None:
    """Leave the traceback of the current exception in the run's log."""
    with directory.log.open("a") as log:
        log.write(traceback.format_exc())


def _discard(directory: RunDirectory) -> None:
    """Remove what Hydra and we have written for a run that never started; whatever else lies there stays."""
    shutil.rmtree(directory.config.parent, ignore_errors=True)
    for file in (directory.log, directory.metrics, directory.wandb, directory.lock):
        file.unlink(missing_ok=True)
    folders = [directory.path] if directory.path != Path.cwd() else []
    if directory.path.parents[1] == Path.cwd() / "outputs":  # where a run goes unless the user names a directory
        folders += directory.path.parents[:2]
    with suppress(OSError):  # one that is not empty ends it
        for folder in folders:
            folder.rmdir()


def git_state() -> dict[str, Any] | None:
    """Commit of the working directory and whether tracked files differ from it; None outside of a repository."""

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["git", "--no-optional-locks", *arguments]  # it would lock the index, which a commit may need
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)  # noqa: S603

    try:
        commit = git("rev-parse", "HEAD").stdout.strip()
        return {"commit": commit, "dirty": bool(git("status", "--porcelain", "-uno").stdout)}
    except (OSError, subprocess.SubprocessError):
        return None


def _versions() -> dict[str, str]:
    return {
        "vae_exp": vae_exp.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
