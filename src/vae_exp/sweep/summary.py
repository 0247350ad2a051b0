"""The tables of a sweep: what was swept, and what came of it."""

import csv
import io
from collections.abc import Sequence
from math import isnan
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vae_exp.errors import UserError
from vae_exp.storage.atomic_io import write_to_user_path
from vae_exp.sweep.aggregate import Group, MeanAndError
from vae_exp.sweep.job_records import Job, read_jobs, union, varying
from vae_exp.sweep.metrics import best_first

_SHOWN_METRICS = ("loss", "elbo", "rate", "distortion")
_NAMED_ERROR = 60
_MOST_ROWS = 100
_WIDTH_OF_A_FILE = 160

Rows = tuple[list[str], list[list[str | float | None]]]


def console() -> Console:
    """Standard output, wide where it is no terminal."""
    found = Console()
    return found if found.is_terminal else Console(width=_WIDTH_OF_A_FILE)


def rows_of(jobs: Sequence[Job]) -> Rows:
    """All keys and all metrics of all jobs, one job a row; the names of the columns first."""
    keys = union(job.keys for job in jobs)
    metrics = union(job.metrics for job in jobs)
    rows: list[list[str | float | None]] = [
        [
            job.name,
            job.status,
            *(job.keys.get(key) for key in keys),
            *(job.metrics.get(key) for key in metrics),
            ", ".join(job.warnings),
            job.error,
        ]
        for job in jobs
    ]
    return ["job", "status", *keys, *metrics, "warnings", "error"], rows


def rows_of_groups(groups: Sequence[Group]) -> Rows:
    """Means and standard errors of all metrics, one group a row; the names of the columns first."""
    keys = union(group.keys for group in groups)
    metrics = union(group.metrics for group in groups)
    rows: list[list[str | float | None]] = [
        [
            *(group.keys.get(key) for key in keys),
            group.count,
            *(value for name in metrics for value in _mean_and_error(group.metrics.get(name))),
        ]
        for group in groups
    ]
    columns = [column for name in metrics for column in (name, f"{name} standard error")]
    return [*keys, "jobs", *columns], rows


def _mean_and_error(value: MeanAndError | None) -> tuple[float | None, float | None]:
    if value is None:
        return None, None
    return value.mean, None if isnan(value.error) else value.error


def write_csv(table: Rows, path: Path) -> None:
    """Write rows under the names of their columns as CSV; what is missing is empty."""
    text = io.StringIO()
    writer = csv.writer(text)
    names, rows = table
    writer.writerow(names)
    writer.writerows(["" if cell is None else cell for cell in row] for row in rows)
    write_to_user_path(path, lambda file: file.write(text.getvalue().encode()))


def write_parquet(table: Rows, path: Path) -> None:
    """Write rows under the names of their columns as Parquet; what is missing is null.

    Raises:
        UserError: if pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError("--parquet needs pyarrow: pip install pyarrow.") from error
    names, rows = table
    columns = pyarrow.table({name: [row[index] for row in rows] for index, name in enumerate(names)})
    write_to_user_path(path, lambda file: parquet.write_table(columns, file))


def print_summary(sweep: Path) -> None:
    """Print the table of a sweep, sorted by the monitored metric, and write it as `summary.csv`."""
    jobs = read_jobs(sweep)
    if not jobs:
        return
    metrics = shown_metrics(jobs)
    elbo = next((name for name in metrics if name.endswith("/elbo")), None)
    told = "best first"
    if elbo and any(key == "loss" or key.startswith("loss.") for key in varying(jobs)):
        jobs = best_first(jobs, elbo)
        told = f"best {elbo} first"  # what different losses minimise cannot be compared
    write_csv(rows_of(jobs), sweep / "summary.csv")
    out = console()
    out.print(job_table(jobs, f"Sweep {sweep.name}, {told}", metrics))
    for job in jobs[:_MOST_ROWS]:
        if job.error:
            out.print(f"{job.name}: {job.error}", markup=False, highlight=False, soft_wrap=True)
    print_warnings(jobs, out)
    out.print(f"Written to {sweep / 'summary.csv'}", markup=False, highlight=False, soft_wrap=True)


def print_warnings(jobs: Sequence[Job], out: Console) -> None:
    """Print each kind of warning once: how many jobs have it, and the message of the first."""
    for name in union(job.warnings for job in jobs):
        warned = [job for job in jobs if name in job.warnings]
        example = f"{warned[0].name}: {warned[0].warnings[name]}"
        line = f"Warning: {name} in {len(warned)} of {len(jobs)} jobs, such as {example}"
        out.print(Text(line), soft_wrap=True)


def shown_metrics(jobs: Sequence[Job]) -> list[str]:
    """The metrics that every table has, of the held-out images where there are some."""
    split = "val" if any("val/loss" in job.metrics for job in jobs) else "train"
    names = [f"{split}/{name}" for name in _SHOWN_METRICS]
    return [name for name in names if any(name in job.metrics for job in jobs)]


def job_table(jobs: Sequence[Job], title: str, metrics: Sequence[str]) -> Table:
    """A row per job, in the order given; of very many the first."""
    shown = varying(jobs)
    table = Table(title=Text(title))
    for key in shown:
        table.add_column(key, overflow="fold")
    for name in metrics:
        table.add_column(name, justify="right")
    table.add_column("status")
    for job in jobs[:_MOST_ROWS]:
        values = [f"{job.metrics[name]:.3f}" if name in job.metrics else "–" for name in metrics]
        status = job.status if not job.error else f"{job.status}: {_shortened(job.error)}"
        status += f" ({', '.join(job.warnings)})" if job.warnings else ""
        cells = [*(job.keys.get(key, "–") for key in shown), *values, status]
        table.add_row(*(Text(cell) for cell in cells))
    if len(jobs) > _MOST_ROWS:
        table.caption = f"and {len(jobs) - _MOST_ROWS} more: all are in the files"
    return table


def group_table(groups: Sequence[Group], title: str, metrics: Sequence[str]) -> Table:
    """A row per group: means ± standard errors over its jobs."""
    table = Table(title=Text(title))
    for key in groups[0].keys if groups else ():
        table.add_column(key, overflow="fold")
    table.add_column("jobs", justify="right")
    for name in metrics:
        table.add_column(name, justify="right")
    for group in groups[:_MOST_ROWS]:
        values = [_shown(group.metrics.get(name)) for name in metrics]
        warned = [f"{count} with {name}" for name, count in group.warnings.items()]
        count = ", ".join([str(group.count), *warned])
        table.add_row(*(Text(value) for value in group.keys.values()), count, *values)
    if len(groups) > _MOST_ROWS:
        table.caption = f"and {len(groups) - _MOST_ROWS} more"
    return table


def _shown(value: MeanAndError | None) -> str:
    if value is None:
        return "–"
    return f"{value.mean:.3f}" if isnan(value.error) else f"{value.mean:.3f} ± {value.error:.3f}"


def _shortened(text: str) -> str:
    line = text.splitlines()[0]
    return line if len(line) <= _NAMED_ERROR else f"{line[:_NAMED_ERROR]}…"
