"""Which metric a sweep is judged by, and which way is better."""

from collections.abc import Sequence
from math import inf

from vae_exp.errors import UserError
from vae_exp.metrics import higher_is_better
from vae_exp.sweep.job_records import Job, union

_JUDGED_BY = ("test/nll", "test/elbo", "val/nll", "val/elbo", "train/elbo", "val/loss", "train/loss")


def direction(metric: str) -> str:
    """`maximize` or `minimize`."""
    return "maximize" if higher_is_better(metric) else "minimize"


def chosen_metric(jobs: Sequence[Job], asked: str | None, option: str = "--metric") -> str:
    """The metric that was asked for, or the one that says most of those that the jobs have.

    Args:
        jobs: Of a sweep.
        asked: A name; None chooses one.
        option: By which it was asked for, as messages name it.

    Raises:
        UserError: if no job has it; names those that are there.
    """
    known = union(job.metrics for job in jobs)
    if asked is None:
        found = next((name for name in _JUDGED_BY if name in known), None)
        if found is None:
            raise UserError("no job of the sweep has metrics yet.")
        return found
    if asked not in known:
        raise UserError(f"{option} {asked}: no job has it; known here: {', '.join(sorted(known)) or 'none yet'}.")
    return asked


def best_first(jobs: Sequence[Job], metric: str) -> list[Job]:
    """Completed jobs by a metric, then the others: the last value of an unfinished job is not its result."""
    sign = -1 if higher_is_better(metric) else 1

    def rank(job: Job) -> tuple[bool, float]:
        return job.status != "completed", sign * job.metrics[metric] if metric in job.metrics else inf

    return sorted(jobs, key=rank)
