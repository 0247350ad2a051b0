"""Jobs that differ in their seed alone, taken together: means and standard errors."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import nan, sqrt
from statistics import fmean, stdev

from vae_exp.errors import UserError
from vae_exp.sweep.jobs import Job, union, varying

_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?")
SEEDS = ("seed", "data.split_seed", "data.binarization_seed")


@dataclass(frozen=True)
class Estimate:
    """The mean of a metric over the jobs of a group.

    Args:
        mean: The arithmetic mean.
        error: Its standard error, s / √n with n − 1 in s; NaN for a single job.
        count: n.
    """

    mean: float
    error: float
    count: int


@dataclass(frozen=True)
class Group:
    """Finished jobs with the same values at some keys.

    Args:
        keys: These values.
        count: How many jobs.
        metrics: Of those that have the metric.
        warnings: How many jobs have each.
    """

    keys: dict[str, str]
    count: int
    metrics: dict[str, Estimate]
    warnings: dict[str, int] = field(default_factory=dict)


def default_keys(jobs: Sequence[Job]) -> list[str]:
    """The keys that vary, but for seeds."""
    return [key for key in varying(jobs) if key not in SEEDS]


def grouped(jobs: Sequence[Job], keys: Sequence[str]) -> list[Group]:
    """Completed jobs by their values at some keys, in the order of their first appearance.

    Raises:
        UserError: if no job sets one of the keys.
    """
    known = union(job.keys for job in jobs)
    for key in keys:
        if key not in known:
            raise UserError(f"--group-by {key}: no job sets it; set by some: {', '.join(known) or 'none'}.")
    members: dict[tuple[str, ...], list[Job]] = {}
    for job in jobs:
        if job.status == "completed":
            members.setdefault(tuple(job.keys.get(key, "–") for key in keys), []).append(job)
    return [
        Group(
            dict(zip(keys, values, strict=True)),
            len(each),
            _estimates(each),
            {name: sum(name in job.warnings for job in each) for name in union(job.warnings for job in each)},
        )
        for values, each in members.items()
    ]


def in_order(value: str) -> tuple[list[float], str]:
    """A sorting key for values of a config: numbers and lists of numbers by their size, words by themselves."""
    return [float(number) for number in _NUMBER.findall(value)], value


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and standard error of some values."""
    count = len(values)
    error = stdev(values) / sqrt(count) if count > 1 else nan
    return Estimate(fmean(values), error, count)


def _estimates(jobs: Sequence[Job]) -> dict[str, Estimate]:
    names = union(job.metrics for job in jobs)
    return {name: estimate([job.metrics[name] for job in jobs if name in job.metrics]) for name in names}
