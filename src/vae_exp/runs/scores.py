"""Scores of trained runs: the files that `evaluate` writes, and which runs a path names."""

from collections.abc import Mapping, Sequence
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from vae_exp.errors import UserError, quantity
from vae_exp.metrics import with_current_metrics
from vae_exp.storage.atomic_io import absolute_path, check_within, read_json, sha256_of, write_json
from vae_exp.storage.run_directory import RunDirectory, named_run

if TYPE_CHECKING:  # the tables of a sweep read scores without torch
    from vae_exp.runs.trained_run import TrainedRun


def find_runs(names: str | Sequence[str] | None) -> list[Path]:
    """The run directories that `run=` names, in order.

    Args:
        names: Run directories, sweeps, which stand for their jobs, or `latest`.

    Raises:
        UserError: if one is neither, or a sweep of which no job has a checkpoint.
    """
    if names is None:
        raise UserError("run=null names no run; name a run directory, a sweep, or a list of them.")
    paths = []
    for name in [names] if isinstance(names, str) else names:
        path = named_run(name)
        jobs = [] if RunDirectory(path).config.is_file() else _jobs(path)
        if jobs and not any(RunDirectory(job).checkpoints() for job in jobs):
            raise UserError(
                f"run={name} is a sweep of {quantity(len(jobs), 'job')}, none of which has a checkpoint yet."
            )
        paths += jobs or [path]
    return list(dict.fromkeys(paths))


def _jobs(sweep: Path) -> list[Path]:
    return [config.parent.parent for config in sorted(sweep.glob("*/.hydra/config.yaml"))]


def identify_scores(run: "TrainedRun", split: str, seed: int) -> dict[str, Any]:
    """What scores follow from beside the evaluators: the weights, the seed and all images of the split."""
    from vae_exp.data.fingerprint import fingerprint

    return identify_weights(run, seed) | {"data": fingerprint(run.data.get_split(split), sample=False)}


def identify_weights(run: "TrainedRun", seed: int) -> dict[str, Any]:
    """As `identify_scores`, without the images."""
    return {
        "checkpoint": run.checkpoint,
        "checkpoint_hash": sha256_of(run.directory.checkpoint(run.checkpoint))[:16],
        "epoch": run.epoch,
        "seed": seed,
    }


def stored_scores(
    path: Path, identity: Mapping[str, Any], evaluators: Mapping[str, Any]
) -> dict[str, float] | None:
    """The metrics of a score file if it has these evaluators with these settings; None otherwise.

    Args:
        path: The score file.
        identity: What the file must say of itself (`identify_scores`).
        evaluators: The group `evaluator`, plain.

    Raises:
        UserError: if the file is damaged.
    """
    content = _read(path)
    same = not _other_keys(content, identity)
    same = same and all(content["evaluator"].get(key) == settings for key, settings in evaluators.items())
    return with_current_metrics(content["metrics"]) if same else None


def with_file_hashes(evaluators: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of evaluators, with a checksum of each file of features that they name."""
    return {
        name: {
            **node,
            "features_hash": sha256_of(absolute_path(f"evaluator.{name}.features", node["features"]))[:16],
        }
        if node.get("features")
        else node
        for name, node in evaluators.items()
    }


def store_scores(
    path: Path,
    identity: Mapping[str, Any],
    evaluators: Mapping[str, Any],
    metrics: Mapping[str, Mapping[str, float]],
) -> str | None:
    """Write scores; those of other evaluators stay beside them if their identity is the same.

    A damaged file is replaced. Of several processes one writes at a time.

    Args:
        path: The score file.
        identity: What the scores follow from.
        evaluators: The settings of the evaluators that the scores are of, by name.
        metrics: The scores by evaluator.

    Returns:
        Which scores, of another identity, were replaced; None if there were none.
    """
    lock = path.with_name(f".{path.name}.lock")
    check_within(lock, path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        try:
            content = _read(path)
        except UserError:
            content = {}
        other = _other_keys(content, identity)
        kept = content if content and not other else {"evaluator": {}, "metrics": {}, "metric_names": {}}
        replaced = {name for evaluator in metrics for name in kept["metric_names"].get(evaluator, ())}
        scores = {name: value for name, value in kept["metrics"].items() if name not in replaced}
        names = {evaluator: list(values) for evaluator, values in metrics.items()}
        write_json(
            path,
            {
                **identity,
                "evaluator": {**kept["evaluator"], **evaluators},
                "metrics": scores | {name: value for values in metrics.values() for name, value in values.items()},
                "metric_names": {**kept["metric_names"], **names},
            },
        )
    if not content or not other:
        return None
    texts = [
        f"{key}={content[key]}" if key in ("seed", "epoch") and key in content else f"other {key}" for key in other
    ]
    return f"{', '.join(content['evaluator'])}, which had {', '.join(texts)}"


def _read(path: Path) -> dict[str, Any]:
    """The content of a score file, scores that are no numbers as NaN; empty where there is none.

    Raises:
        UserError: if it is not what `store_scores` writes.
    """
    remedy = "force=true computes the scores again and replaces it."
    try:
        content = read_json(path)
    except FileNotFoundError:
        return {}
    except NotADirectoryError:  # they cannot be replaced either
        raise
    except (OSError, UserError) as error:
        raise UserError(f"the scores {path} cannot be read: {error} {remedy}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds {type(content).__name__}; expected a JSON object of scores; {remedy}")
    for key in ("evaluator", "metrics", "metric_names"):  # the last is missing in files of earlier versions
        if not isinstance(content.setdefault(key, {}), dict):
            raise UserError(f"{path} has {key}={content[key]!r}; expected a JSON object; {remedy}")
    for name, value in content["metrics"].items():
        if not isinstance(value, int | float | None):
            raise UserError(f"{path} has {name}={value!r}; expected a number; {remedy}")
        content["metrics"][name] = nan if value is None else value
    return content


def _other_keys(content: Mapping[str, Any], identity: Mapping[str, Any]) -> list[str]:
    """The keys of an identity that scores are of another value of."""
    return [key for key, value in identity.items() if key not in content or content[key] != value]


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
