"""The table of a sweep: what was swept, and what came of it."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vae_exp.run_directory import write_atomically
from vae_exp.sweep.jobs import Job, read_jobs, union, varying

_SHOWN_METRICS = ("loss", "elbo", "rate", "distortion")
_NAMED_ERROR = 60


def write_csv(jobs: Sequence[Job], path: Path) -> None:
    """All keys and all metrics of all jobs, one job a row."""
    keys = union(job.keys for job in jobs)
    metrics = union(job.metrics for job in jobs)
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
    shown = varying(jobs)
    split = "val" if any("val/loss" in job.metrics for job in jobs) else "train"
    metrics = [
        f"{split}/{name}" for name in _SHOWN_METRICS if any(f"{split}/{name}" in job.metrics for job in jobs)
    ]
    table = Table(title=Text(f"Sweep {title}, best first"))
    for key in shown:
        table.add_column(key, overflow="fold")
    for name in metrics:
        table.add_column(name, justify="right")
    table.add_column("status")
    for job in jobs:
        values = [f"{job.metrics[name]:.3f}" if name in job.metrics else "–" for name in metrics]
        status = job.status if not job.error else f"{job.status}: {_shortened(job.error)}"
        cells = [*(job.keys.get(key, "–") for key in shown), *values, status]
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _shortened(text: str) -> str:
    line = text.splitlines()[0]
    return line if len(line) <= _NAMED_ERROR else f"{line[:_NAMED_ERROR]}…"
