"""The tables of a sweep: its summary, and its state while it runs."""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from math import isnan
from pathlib import Path
from statistics import fmean

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vae_exp.engine.progress import format_duration
from vae_exp.errors import UserError, quantity
from vae_exp.metrics import format_value
from vae_exp.storage.output_files import write_to_user_path
from vae_exp.sweep.aggregate import MeanAndError, SeedGroup, sort_by_metric
from vae_exp.sweep.job_records import NOT_STARTED, RUNNING, JobRecord, read_jobs, union, varying
from vae_exp.sweep.run_job import FINISHED

_SHOWN_METRICS = ("loss", "elbo", "rate", "distortion")
_NAMED_ERROR = 60
_MOST_FAILURES = 30
_MOST_ROWS = 100
_WIDTH_OF_A_FILE = 160

Rows = tuple[list[str], list[list[str | float | None]]]


def console() -> Console:
    """Standard output, wide where it is not a terminal."""
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=_WIDTH_OF_A_FILE)


def job_rows(jobs: Sequence[JobRecord]) -> Rows:
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


def group_rows(groups: Sequence[SeedGroup]) -> Rows:
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
    order = "best first"
    if elbo and any(key == "loss" or key.startswith("loss.") for key in varying(jobs)):
        jobs = sort_by_metric(jobs, elbo)
        order = f"best {elbo} first"  # what different losses minimise cannot be compared
    write_csv(job_rows(jobs), sweep / "summary.csv")
    out = console()
    out.print(job_table(jobs, f"Sweep {sweep.name}, {order}", metrics))
    for job in jobs[:_MOST_ROWS]:
        if job.error:
            out.print(Text(f"{job.title}: {job.error}"), soft_wrap=True)
    print_warnings(jobs, out)
    out.print(Text(f"Written to {sweep / 'summary.csv'}"), soft_wrap=True)


def print_warnings(jobs: Sequence[JobRecord], out: Console) -> None:
    """Print each kind of warning once: how many jobs have it, and the message of the first."""
    for name in union(job.warnings for job in jobs):
        warned = [job for job in jobs if name in job.warnings]
        example = f"{warned[0].title}: {warned[0].warnings[name]}"
        count = f"{len(warned)} of {quantity(len(jobs), 'job')}"
        out.print(Text(f"Warning: {name} in {count}, such as {example}"), soft_wrap=True)


def shown_metrics(jobs: Sequence[JobRecord]) -> list[str]:
    """The metrics that every table has, of the held-out images where there are some, and test scores."""
    split = "val" if any("val/loss" in job.metrics for job in jobs) else "train"
    names = [f"{split}/{name}" for name in _SHOWN_METRICS]
    names += ["test/elbo", "test/nll"]
    return [name for name in names if any(name in job.metrics for job in jobs)]


def job_table(
    jobs: Sequence[JobRecord], title: str, metrics: Sequence[str], keys: Sequence[str] | None = None
) -> Table:
    """A row per job, in the order given; of very many the first. The keys are by default those that vary."""
    keys = varying(jobs) if keys is None else keys
    table = _table(title, keys, metrics)
    table.add_column("status")
    for job in jobs[:_MOST_ROWS]:
        table.add_row(
            *(Text(job.keys.get(key, "–")) for key in keys),
            *(format_value(name, job.metrics[name]) if name in job.metrics else "–" for name in metrics),
            Text(_status(job)),
        )
    return _with_caption(table, len(jobs))


def _status(job: JobRecord) -> str:
    status = f"{job.status} ({', '.join(job.warnings)})" if job.warnings else job.status
    if job.status == RUNNING:
        return f"{status}: {quantity(job.epochs, 'epoch')}"
    line = job.error.partition("\n")[0]
    return f"{status}: {line[:_NAMED_ERROR]}{'…' * (len(line) > _NAMED_ERROR)}" if line else status


def group_table(groups: Sequence[SeedGroup], title: str, metrics: Sequence[str]) -> Table:
    """A row per group: means ± standard errors over its jobs."""
    table = _table(title, [*groups[0].keys] if groups else [], ["jobs", *metrics])
    for group in groups[:_MOST_ROWS]:
        warned = [f"{count} with {name}" for name, count in group.warnings.items()]
        count = ", ".join([str(group.count), *warned])
        values = [_shown(name, group.metrics.get(name)) for name in metrics]
        table.add_row(*map(Text, group.keys.values()), count, *values)
    return _with_caption(table, len(groups))


def _table(title: str, keys: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(title=Text(title))
    for key in keys:
        table.add_column(key, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _with_caption(table: Table, count: int) -> Table:
    table.caption = f"and {count - _MOST_ROWS} more" if count > _MOST_ROWS else None
    return table


def _shown(name: str, value: MeanAndError | None) -> str:
    if value is None:
        return "–"
    mean = format_value(name, value.mean, is_mean=True)
    return mean if isnan(value.error) else f"{mean} ± {format_value(name, value.error, is_mean=True)}"


def print_status(jobs: Sequence[JobRecord], title: str, out: Console) -> None:
    """Print the state of a sweep."""
    counts = Counter(job.status for job in jobs)
    states = ", ".join(f"{count} {status}" for status, count in counts.most_common())
    out.print(Text(f"{title}: {quantity(len(jobs), 'job')}: {states}"), soft_wrap=True)
    running = [job for job in jobs if job.status == RUNNING]
    if running:
        out.print(job_table(running, "Running", ("val/elbo", "train/elbo"), varying(jobs)))
    failed = [job for job in jobs if job.error]
    for job in failed[:_MOST_FAILURES]:
        out.print(Text(f"{job.status}: {job.title}: {job.error.splitlines()[0]}"), soft_wrap=True)
    if len(failed) > _MOST_FAILURES:
        out.print(Text(f"and {len(failed) - _MOST_FAILURES} more that did not finish"))
    print_warnings(jobs, out)
    left = seconds_left(jobs)
    if left is not None:
        out.print(Text(f"About {format_duration(left)} left at the pace of the jobs so far."))


def seconds_left(jobs: Sequence[JobRecord]) -> float | None:
    """Estimated seconds until the sweep ends, with as many jobs at once as now.

    None where no job runs, none has finished, or jobs differ in their epochs, so that one says little of another.
    """
    running = sum(job.status == RUNNING for job in jobs)
    waiting = sum(job.status == NOT_STARTED for job in jobs)
    spent = [job.seconds for job in jobs if job.status in FINISHED and job.seconds is not None]
    if not running or not spent or "trainer.epochs" in varying(jobs):
        return None
    return fmean(spent) * (waiting + running / 2) / running
