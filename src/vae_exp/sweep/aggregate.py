"""Settings, which are jobs that differ in their seed alone, and settings combined over some of their keys."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import nan, sqrt
from statistics import fmean, stdev
from typing import Literal

from vae_exp.errors import UserError
from vae_exp.metrics import higher_is_better
from vae_exp.sweep.job_records import Job, union, varying

_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?")
SEEDS = ("seed", "data.split_seed", "data.binarization_seed")
Others = Literal["mean", "best"]  # what is shown of the settings that differ in keys which are not shown


@dataclass(frozen=True)
class MeanAndError:
    """The mean of a metric over the jobs of a group.

    Args:
        mean: The arithmetic mean; of combined settings, that of their means.
        error: Its standard error over seeds, s / √n with n − 1 in s; NaN where a setting has a single job.
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
    metrics: dict[str, MeanAndError]
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


def combined(settings: Sequence[Group], keys: Sequence[str], others: Others, metric: str) -> list[Group]:
    """Settings with the same values at some keys as one group, in the order of their first appearance.

    Of S settings with means mᵢ and standard errors sᵢ over seeds, `mean` gives Σ mᵢ / S with the error
    √(Σ sᵢ²) / S, whatever the number of seeds of each; `best` gives the setting whose mean of `metric` is best.

    Args:
        settings: Groups of jobs that differ in seeds alone.
        keys: The keys that are shown.
        others: How settings that differ in other keys are combined.
        metric: Which setting is best.
    """
    members: dict[tuple[str, ...], list[Group]] = {}
    for setting in settings:
        members.setdefault(tuple(setting.keys[key] for key in keys), []).append(setting)
    groups = []
    for values, each in members.items():
        chosen = _best(each, metric) if others == "best" else each
        names = union(setting.metrics for setting in chosen)
        metrics = {name: _mean_of([one.metrics[name] for one in chosen if name in one.metrics]) for name in names}
        count = sum(setting.count for setting in each)
        warnings = {
            name: sum(one.warnings.get(name, 0) for one in each) for name in union(s.warnings for s in each)
        }
        groups.append(Group(dict(zip(keys, values, strict=True)), count, metrics, warnings))
    return groups


def meaning(settings: Sequence[Group], keys: Sequence[str], others: Others, metric: str) -> str:
    """What a number over some keys is, in words: over how many seeds, and over which other keys."""
    counts = sorted({setting.metrics[metric].count for setting in settings if metric in setting.metrics})
    seeds = "one seed each"
    if counts and counts[-1] > 1:
        number = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        seeds = f"mean over {number} seeds"
    rows: dict[tuple[str, ...], list[Group]] = {}
    for setting in settings:
        rows.setdefault(tuple(setting.keys[key] for key in keys), []).append(setting)
    rest = union(dict.fromkeys(varying_keys(row)) for row in rows.values())
    return f"{seeds}; {others} over {', '.join(rest)}" if rest else seeds


def varying_keys(groups: Sequence[Group]) -> list[str]:
    """Keys in which groups differ."""
    return [key for key in groups[0].keys if len({group.keys[key] for group in groups}) > 1] if groups else []


def _best(settings: Sequence[Group], metric: str) -> Sequence[Group]:
    having = [setting for setting in settings if metric in setting.metrics]
    sign = 1 if higher_is_better(metric) else -1
    return [max(having, key=lambda setting: sign * setting.metrics[metric].mean)] if having else []


def _mean_of(estimates: Sequence[MeanAndError]) -> MeanAndError:
    count = len(estimates)
    error = sqrt(sum(each.error**2 for each in estimates)) / count
    return MeanAndError(fmean(each.mean for each in estimates), error, sum(each.count for each in estimates))


def in_order(value: str) -> tuple[list[float], str]:
    """A sorting key for values of a config: numbers and lists of numbers by their size, words by themselves."""
    return [float(number) for number in _NUMBER.findall(value)], value


def estimate(values: Sequence[float]) -> MeanAndError:
    """Mean and standard error of some values."""
    count = len(values)
    error = stdev(values) / sqrt(count) if count > 1 else nan
    return MeanAndError(fmean(values), error, count)


def _estimates(jobs: Sequence[Job]) -> dict[str, MeanAndError]:
    names = union(job.metrics for job in jobs)
    return {name: estimate([job.metrics[name] for job in jobs if name in job.metrics]) for name in names}
