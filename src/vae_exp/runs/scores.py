"""Scores of trained runs: the files that `evaluate` writes, and which runs a path names."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vae_exp.errors import UserError
from vae_exp.metrics import with_current_metrics
from vae_exp.storage.atomic_io import absolute_path, read_json, sha256_of
from vae_exp.storage.run_directory import RunDirectory, named_run

if TYPE_CHECKING:  # the tables of a sweep read scores without torch
    from vae_exp.runs.trained_run import TrainedRun


def find_runs(names: str | Sequence[str]) -> list[Path]:
    """The run directories that `run=` names, in order.

    Args:
        names: Run directories, sweeps, which stand for their jobs that have a checkpoint, or `latest`.

    Raises:
        UserError: if one is neither.
    """
    paths = []
    for name in [names] if isinstance(names, str) else names:
        path = named_run(name)
        jobs = [] if RunDirectory(path).config.is_file() else sorted(path.glob("*/.hydra/config.yaml"))
        trained = [job.parent.parent for job in jobs if RunDirectory(job.parent.parent).checkpoints()]
        if jobs and not trained:
            raise UserError(f"run={name} is a sweep of {len(jobs)} jobs, none of which has a checkpoint yet.")
        paths += trained or [path]
    return list(dict.fromkeys(paths))


def identify_scores(run: "TrainedRun", seed: int) -> dict[str, Any]:
    """What scores follow from beside the evaluators: the weights, the seed and the data, where they are now."""
    data = run.config["data"]
    path = absolute_path("data.path", str(data["path"])) if data.get("path") else None
    status = path.stat() if path is not None and path.exists() else None
    return {
        "checkpoint": run.checkpoint,
        "checkpoint_hash": sha256_of(run.directory.checkpoint(run.checkpoint))[:16],
        "epoch": run.epoch,
        "seed": seed,
        "data": {
            "root": data.get("root"),
            "path": None if path is None else str(path),
            "size_and_time": None if status is None else [status.st_size, status.st_mtime_ns],
        },
    }


def stored_scores(
    path: Path, identity: Mapping[str, Any], evaluators: Mapping[str, Any]
) -> dict[str, float] | None:
    """The metrics of a score file if it has these evaluators with these settings; None otherwise.

    Args:
        path: The score file.
        identity: What the file must say of itself (`identify_scores`).
        evaluators: The group `evaluator`, plain.
    """
    try:
        content = read_json(path)
    except (OSError, UserError):
        return None
    if not isinstance(content, dict) or any(content.get(key) != value for key, value in identity.items()):
        return None
    stored, metrics = content.get("evaluator"), content.get("metrics")
    if not isinstance(stored, dict) or not isinstance(metrics, dict):
        return None
    same = all(stored.get(key) == settings for key, settings in evaluators.items())
    return with_current_metrics(metrics) if same else None


def replaced_scores(path: Path, identity: Mapping[str, Any]) -> str:
    """The seed and the epoch of a score file where they are others, such as `seed=1`; empty where they are not."""
    try:
        content = read_json(path)
    except (OSError, UserError):
        return ""
    stored = content if isinstance(content, dict) else {}
    return ", ".join(
        f"{key}={stored[key]}" for key in ("seed", "epoch") if stored.get(key, identity[key]) != identity[key]
    )


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
            return with_current_metrics(content["metrics"])
    return {}
