"""Scores of trained runs: the files that `evaluate` writes, and which runs a path names."""

import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vae_exp.errors import UserError
from vae_exp.metrics import with_current_metrics
from vae_exp.storage.atomic_io import absolute_path, read_json
from vae_exp.storage.run_directory import LATEST, RunDirectory, find_latest_run


def find_runs(names: str | Sequence[str]) -> list[Path]:
    """The run directories that `run=` names, in order.

    Args:
        names: Run directories, sweeps, which stand for their jobs that have a checkpoint, or `latest`.

    Raises:
        UserError: if one is neither.
    """
    paths = []
    for name in [names] if isinstance(names, str) else names:
        path = find_latest_run("run") if name == LATEST else absolute_path("run", name)
        jobs = [] if RunDirectory(path).config.is_file() else sorted(path.glob("*/.hydra/config.yaml"))
        trained = [job.parent.parent for job in jobs if any(_checkpoints(RunDirectory(job.parent.parent)))]
        if jobs and not trained:
            raise UserError(f"run={name} is a sweep of {len(jobs)} jobs, none of which has a checkpoint yet.")
        paths += trained or [path]
    return list(dict.fromkeys(paths))


def checkpoint_hash(path: Path) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a checkpoint."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def stored_scores(path: Path, what: Mapping[str, Any], evaluators: Mapping[str, Any]) -> dict[str, float] | None:
    """The metrics of a score file if it has these evaluators with these settings; None otherwise.

    Args:
        path: The score file.
        what: What the file must say of itself: checkpoint, its hash and epoch, seed.
        evaluators: The group `evaluator`, plain.
    """
    try:
        content = read_json(path)
    except (OSError, UserError):
        return None
    if not isinstance(content, dict) or any(content.get(key) != value for key, value in what.items()):
        return None
    stored, metrics = content.get("evaluator"), content.get("metrics")
    if not isinstance(stored, dict) or not isinstance(metrics, dict):
        return None
    same = all(stored.get(key) == settings for key, settings in evaluators.items())
    return with_current_metrics(metrics) if same else None


def read_test_scores(run_dir: RunDirectory, result: Mapping[str, Any]) -> dict[str, float]:
    """The scores on the test images that a run has, as `test/…`: of its best epoch, else of its last.

    Scores of an epoch that is no longer the best or the last, because the run was resumed, are left out.
    """
    best = result.get("best")
    epochs = {"best": best.get("epoch") if isinstance(best, dict) else None, "last": result.get("epochs")}
    for checkpoint, epoch in epochs.items():
        try:
            content = read_json(run_dir.evaluation("test", checkpoint))
        except (OSError, UserError):
            continue
        if (
            isinstance(content, dict)
            and content.get("epoch") == epoch
            and isinstance(content.get("metrics"), dict)
        ):
            return {
                name: value
                for name, value in with_current_metrics(content["metrics"]).items()
                if _is_finite(value)
            }
    return {}


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


def _checkpoints(run_dir: RunDirectory) -> list[bool]:
    return [run_dir.checkpoint(name).is_file() for name in ("best", "last")]
