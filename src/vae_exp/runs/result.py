"""How a run ended: what `result.json` says of it, and what is left of one that never started."""

import platform
import shutil
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

import vae_exp
from vae_exp.engine.device import device_name
from vae_exp.engine.trainer import Trainer
from vae_exp.errors import Interrupted, UserError
from vae_exp.storage.run_directory import RunDirectory, write_json


def ended(
    trainer: Trainer,
    *,
    status: str,
    error: str | None,
    began: float,
    device: torch.device,
    threads: int,
    config_hash: str,
    audit: dict[str, Any] | None,
    wandb: dict[str, Any] | None,
) -> dict[str, Any]:
    """What `result.json` holds of a run that has started.

    Args:
        trainer: Knows how far the run has come.
        status: `completed`, `interrupted`, `diverged` or `failed`.
        error: What ended it, if anything did.
        began: When this process took it up, in seconds since the epoch.
        device: Where it trained.
        threads: CPU threads.
        config_hash: The hash of its config.
        audit: What its loss means on its data.
        wandb: What the tracker says of itself.
    """
    position, best = trainer.state, trainer.best
    warnings = list(trainer.warnings)
    if wandb and wandb["error"]:
        warnings.append(
            {
                "name": "tracker_lost",
                "epoch": position.epoch,
                "message": f"Weights & Biases was lost: {wandb['error']}",
            }
        )
    return {
        "status": status,
        "error": error,
        "epochs": position.epoch,
        "steps": position.global_step,
        "stopped_early": position.stopped_early,
        "monitor": trainer.options.monitor,
        "best": {"epoch": best.epoch, "value": best.value},
        "warnings": warnings,
        "metrics": position.metrics,
        "seconds": {
            "training": round(position.train_seconds, 3),
            "total": round(trainer.previous_train_seconds + time.time() - began, 3),
        },
        "device": device_name(device),
        "threads": threads,
        "step": trainer.execution,
        "precision": trainer.options.precision,
        "versions": _versions(),
        "config_hash": config_hash,
        "audit": audit,
        "wandb": wandb,
    }


def end_unstarted(error: Exception, directory: RunDirectory, began: float, *, keep_reason: bool) -> None:
    """A run ended before its first step.

    Args:
        error: Why.
        directory: Where it would have run.
        began: When it began, in seconds since the epoch.
        keep_reason: Whether an error of the user's leaves a `result.json` with its reason, as the table of a sweep
            needs it, or nothing at all. Other errors always leave one. The log keeps the traceback of other
            errors, and of an error of the user's that has a cause.
    """
    if isinstance(error, UserError) and not keep_reason:
        _discard(directory)
        return
    expected = isinstance(error, UserError | Interrupted)
    told = str(error) if expected else f"{type(error).__name__}: {error}"
    if not expected or error.__cause__ is not None:
        log_traceback(directory)
    result = {
        "status": "interrupted" if isinstance(error, Interrupted) else "failed",
        "error": told,
        "epochs": 0,
        "metrics": {},
        "seconds": {"total": round(time.time() - began, 3)},
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
    for file in (directory.log, directory.metrics, directory.lock):
        file.unlink(missing_ok=True)
    folders = [directory.path] if directory.path != Path.cwd() else []
    if directory.path.parents[1] == Path.cwd() / "outputs":  # where a run goes unless the user names a directory
        folders += directory.path.parents[:2]
    with suppress(OSError):  # one that is not empty ends it
        for folder in folders:
            folder.rmdir()


def _versions() -> dict[str, str]:
    return {
        "vae_exp": vae_exp.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
