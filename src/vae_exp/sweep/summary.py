"""The table of a sweep: what was swept, and what came of it."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vae_exp.errors import UserError
from vae_exp.run_directory import RunDirectory, write_atomically

_SHOWN_METRICS = ("loss", "elbo", "rate", "distortion")
_NAMED_ERROR = 60


@dataclass(frozen=True)
class Job:
    """One job of a sweep.

    Args:
        name: Its directory's name.
        keys: The overrides it was started with, by key.
        status: `completed`, `failed`, `interrupted`, `diverged`, or `lost` where no result was written.
        metrics: The final metrics.
        monitor: The metric that chose its best checkpoint.
        error: What ended it; empty if nothing did.
    """

    name: str
    keys: dict[str, str]
    status: str
    metrics: dict[str, float]
    monitor: str
    error: str


def read_jobs(sweep: Path) -> list[Job]:
    """The jobs of a sweep directory, best first by the metric they monitored; those without it last."""
    jobs = [_read_job(RunDirectory(path)) for path in sorted(sweep.glob("*")) if (path / ".hydra").is_dir()]
    return sorted(jobs, key=lambda job: (job.status != "completed", job.metrics.get(job.monitor, float("inf"))))


def write_csv(jobs: Sequence[Job], path: Path) -> None:
    """All keys and all metrics of all jobs, one job a row."""
    keys = _union(job.keys for job in jobs)
    metrics = _union(job.metrics for job in jobs)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["job", "status", *keys, *metrics, "error"])
    for job in jobs:
        values = [job.keys.get(key, "") for key in keys] + [job.metrics.get(key, "") for key in metrics]
        writer.writerow([job.name, job.status, *values, job.error])
    write_atomically(path, lambda file: file.write(text.getvalue().encode()))


def print_summary(sweep: Path) -> None:
    """Print the table of a sweep, sorted by the monitored metric, and write it as `summary.csv`."""
    jobs = read_jobs(sweep)
    if not jobs:
        return
    write_csv(jobs, sweep / "summary.csv")
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    console.print(_table(jobs, sweep.name))
    for job in jobs:
        if job.error:
            console.print(f"{job.name}: {job.error}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"Written to {sweep / 'summary.csv'}", markup=False, highlight=False, soft_wrap=True)


def _table(jobs: Sequence[Job], title: str) -> Table:
    varying = [
        key
        for key in _union(job.keys for job in jobs)
        if len(jobs) == 1 or len({job.keys.get(key) for job in jobs}) > 1
    ]
    split = "val" if any("val/loss" in job.metrics for job in jobs) else "train"
    metrics = [
        f"{split}/{name}" for name in _SHOWN_METRICS if any(f"{split}/{name}" in job.metrics for job in jobs)
    ]
    table = Table(title=Text(f"Sweep {title}, best first"))
    for key in varying:
        table.add_column(key, overflow="fold")
    for name in metrics:
        table.add_column(name, justify="right")
    table.add_column("status")
    for job in jobs:
        values = [f"{job.metrics[name]:.3f}" if name in job.metrics else "–" for name in metrics]
        status = job.status if not job.error else f"{job.status}: {_shortened(job.error)}"
        cells = [*(job.keys.get(key, "–") for key in varying), *values, status]
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _read_job(directory: RunDirectory) -> Job:
    keys = _keys(directory.overrides)
    try:
        result = directory.read_result()
    except UserError as error:
        return Job(directory.path.name, keys, "unreadable", {}, "", str(error))
    if result is None:
        return Job(directory.path.name, keys, "lost", {}, "", "ended without a result: killed, or still running")
    metrics = result.get("metrics")
    if not isinstance(metrics, dict):
        metrics = {}
    return Job(
        name=directory.path.name,
        keys=keys,
        status=str(result.get("status")),
        metrics={key: value for key, value in metrics.items() if isinstance(value, int | float)},
        monitor=str(result.get("monitor", "")),
        error=str(result.get("error") or ""),
    )


def _keys(path: Path) -> dict[str, str]:
    try:
        overrides = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    if not isinstance(overrides, list):
        return {}
    pairs = [str(each).lstrip("+~").partition("=") for each in overrides]
    return {key: value for key, _, value in pairs}


def _union(mappings: Iterable[Mapping[str, Any]]) -> list[str]:
    """The keys of all mappings, in the order of their first appearance."""
    seen: dict[str, None] = {}
    for mapping in mappings:
        seen |= dict.fromkeys(mapping)
    return list(seen)


def _shortened(text: str) -> str:
    line = text.splitlines()[0]
    return line if len(line) <= _NAMED_ERROR else f"{line[:_NAMED_ERROR]}…"
