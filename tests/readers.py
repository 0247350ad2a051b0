"""Readers of the files of a run directory."""

import json
from pathlib import Path
from typing import Any

from vae_exp.tracking.metrics_file import read_row


def read_result(run: Path) -> dict[str, Any]:
    """The content of `result.json`."""
    result: dict[str, Any] = json.loads((run / "result.json").read_text())
    return result


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """The results of all jobs of a sweep by the names of their directories."""
    return {path.parent.name: read_result(path.parent) for path in sorted(folder.glob("*/result.json"))}


def read_metrics(run: Path) -> list[dict[str, float]]:
    """The rows of `metrics.jsonl`, none of them damaged."""
    rows = [read_row(line) for line in (run / "metrics.jsonl").read_bytes().splitlines()]
    assert None not in rows
    return [row for row in rows if row is not None]


def without_times(metrics: dict[str, float]) -> dict[str, float]:
    """Metrics that two equal runs share to the bit."""
    return {name: value for name, value in metrics.items() if not name.startswith("time/")}


def only_run(folder: Path) -> Path:
    """The run that a command without `hydra.run.dir` has left in a folder."""
    [run] = folder.glob("outputs/*/*")
    return run
