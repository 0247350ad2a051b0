"""How far a sweep is: counts, what runs, what failed and why, how long it will take."""

from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vae_exp.sweep.job_records import NOT_STARTED, RUNNING, Job, varying
from vae_exp.sweep.run_job import FINISHED
from vae_exp.sweep.summary import print_warnings

_MOST_FAILURES = 30


def print_status(jobs: Sequence[Job], title: str, out: Console) -> None:
    """Print the state of a sweep."""
    counts = Counter(job.status for job in jobs)
    told = ", ".join(f"{count} {status}" for status, count in counts.most_common())
    out.print(Text(f"{title}: {len(jobs)} jobs: {told}"), soft_wrap=True)
    running = [job for job in jobs if job.status == RUNNING]
    if running:
        out.print(_running(running, varying(jobs)))
    failed = [job for job in jobs if job.error]
    for job in failed[:_MOST_FAILURES]:
        line = f"{job.status}: {job.name}: {job.error.splitlines()[0]}"
        out.print(Text(line), soft_wrap=True)
    if len(failed) > _MOST_FAILURES:
        out.print(Text(f"and {len(failed) - _MOST_FAILURES} more that did not finish"))
    print_warnings(jobs, out)
    left = seconds_left(jobs)
    if left is not None:
        out.print(Text(f"About {_hours(left)} left at the pace of the jobs so far."))


def seconds_left(jobs: Sequence[Job]) -> float | None:
    """How long the rest will take, as many at once as run now; None where nothing runs or nothing is known."""
    running = sum(job.status == RUNNING for job in jobs)
    waiting = sum(job.status == NOT_STARTED for job in jobs)
    spent = [job.seconds for job in jobs if job.status in FINISHED and job.seconds is not None]
    if not running or not spent:
        return None
    return fmean(spent) * (waiting + running / 2) / running


def _running(jobs: Sequence[Job], keys: Sequence[str]) -> Table:
    table = Table(title="Running")
    for name in (*keys, "epochs", "val/elbo", "train/elbo"):
        table.add_column(name)
    for job in jobs:
        metrics = [
            f"{job.metrics[name]:.3f}" if name in job.metrics else "–" for name in ("val/elbo", "train/elbo")
        ]
        cells = [*(job.keys.get(key, "–") for key in keys), str(job.epochs), *metrics]
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _hours(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes or '<1'} min"
