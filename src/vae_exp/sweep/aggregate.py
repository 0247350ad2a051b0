"""Select a metric, combine jobs over seeds and settings over keys, find the best."""

import re
import shlex
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf, nan, sqrt
from statistics import fmean, stdev
from typing import Literal, TypeVar

from vae_exp.configuration.overrides import override_key
from vae_exp.configuration.resolvers import NOT_PART_OF_IDENTITY
from vae_exp.errors import UserError
from vae_exp.metrics import current_metric, higher_is_better
from vae_exp.sweep.job_records import JobRecord, union, varying

_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?")
_JUDGED_BY = ("val/elbo", "train/elbo", "val/loss", "train/loss")  # known of every epoch
_OF_THE_SWEEP = {*NOT_PART_OF_IDENTITY} - {"trusted_packages"}  # pasted overrides trust the same packages
SEEDS = ("seed", "data.split_seed", "data.binarization_seed")
T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
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
class SeedGroup:
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
    warnings: Mapping[str, int] = field(default_factory=dict)


def default_keys(jobs: Sequence[JobRecord]) -> list[str]:
    """The keys that vary, but for seeds."""
    return [key for key in varying(jobs) if key not in SEEDS]


def partition(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Items by a key, in the order of their first appearance."""
    parts: dict[K, list[T]] = {}
    for item in items:
        parts.setdefault(key(item), []).append(item)
    return parts


def group_seeds(jobs: Sequence[JobRecord], keys: Sequence[str]) -> list[SeedGroup]:
    """Completed jobs by their values at some keys, in the order of their first appearance.

    Raises:
        UserError: if no job sets one of the keys.
    """
    available = union(job.keys for job in jobs)
    for key in keys:
        if key not in available:
            raise UserError(f"--group-by {key}: no job sets it; set by some: {', '.join(available) or 'none'}.")
    completed = [job for job in jobs if job.status == "completed"]
    parts = partition(completed, lambda job: tuple(job.keys.get(key, "–") for key in keys))
    return [
        SeedGroup(
            dict(zip(keys, values, strict=True)),
            len(members),
            _estimates(members),
            Counter(name for job in members for name in job.warnings),
        )
        for values, members in parts.items()
    ]


def combine_settings(
    settings: Sequence[SeedGroup], keys: Sequence[str], others: Others, metric: str
) -> list[SeedGroup]:
    """Settings with the same values at some keys as one group, in the order of their first appearance.

    Of S settings with means mᵢ and standard errors sᵢ over seeds, `mean` gives Σ mᵢ / S with the error
    √(Σ sᵢ²) / S, whatever the number of seeds of each; `best` gives the setting whose mean of `metric` is best.

    Args:
        settings: Groups of jobs that differ in seeds alone.
        keys: The keys that are shown.
        others: How settings that differ in other keys are combined.
        metric: Which setting is best.
    """
    groups = []
    for values, members in partition(settings, lambda setting: tuple(setting.keys[key] for key in keys)).items():
        chosen = _best(members, metric) if others == "best" else members
        names = union(setting.metrics for setting in chosen)
        metrics = {name: _mean_of([one.metrics[name] for one in chosen if name in one.metrics]) for name in names}
        count = sum(setting.count for setting in members)
        warnings = sum((Counter(setting.warnings) for setting in members), Counter())
        groups.append(SeedGroup(dict(zip(keys, values, strict=True)), count, metrics, warnings))
    return groups


def meaning(settings: Sequence[SeedGroup], keys: Sequence[str], others: Others, metric: str) -> str:
    """A caption of numbers over some keys: over how many seeds, and over which other keys."""
    counts = sorted({setting.metrics[metric].count for setting in settings if metric in setting.metrics})
    seeds = "one seed each"
    if counts and counts[-1] > 1:
        number = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        seeds = f"mean over {number} seeds"
    rows = partition(settings, lambda setting: tuple(setting.keys[key] for key in keys))
    rest = union(dict.fromkeys(varying_keys(row)) for row in rows.values())
    return f"{seeds}; {others} over {', '.join(rest)}" if rest else seeds


def varying_keys(groups: Sequence[SeedGroup]) -> list[str]:
    """Keys in which groups differ."""
    return [key for key in groups[0].keys if len({group.keys[key] for group in groups}) > 1] if groups else []


def _best(settings: Sequence[SeedGroup], metric: str) -> Sequence[SeedGroup]:
    having = [setting for setting in settings if metric in setting.metrics]
    return [max(having, key=lambda setting: score(metric, setting.metrics[metric].mean))] if having else []


def _mean_of(estimates: Sequence[MeanAndError]) -> MeanAndError:
    count = len(estimates)
    error = sqrt(sum(mean.error**2 for mean in estimates)) / count
    return MeanAndError(fmean(mean.mean for mean in estimates), error, sum(mean.count for mean in estimates))


def natural_sort_key(value: str) -> tuple[list[float], str]:
    """A sorting key for values of a config: numbers and lists of numbers by their size, words by themselves."""
    return [float(number) for number in _NUMBER.findall(value)], value


def estimate(values: Sequence[float]) -> MeanAndError:
    """Mean and standard error of some values."""
    count = len(values)
    error = stdev(values) / sqrt(count) if count > 1 else nan
    return MeanAndError(fmean(values), error, count)


def _estimates(jobs: Sequence[JobRecord]) -> dict[str, MeanAndError]:
    names = union(job.metrics for job in jobs)
    return {name: estimate([job.metrics[name] for job in jobs if name in job.metrics]) for name in names}


def score(metric: str, value: float) -> float:
    """A value of a metric, negated where less is better."""
    return value if higher_is_better(metric) else -value


def select_metric(jobs: Sequence[JobRecord], requested: str | None, option: str = "--metric") -> str:
    """The requested metric, or the most informative one that the jobs have.

    Args:
        jobs: Of a sweep.
        requested: A name; None chooses one.
        option: The option that requested it, for messages.

    Raises:
        UserError: if no job has it; names those that are there.
    """
    available = union(job.metrics for job in jobs)
    if requested is None:
        metric = next((name for name in _JUDGED_BY if name in available), None)
        if metric is None:
            raise UserError("no job of the sweep has metrics yet.")
        return metric
    metric = current_metric(requested)
    if metric not in available:
        shown = ", ".join(sorted(available)) or "none yet"
        raise UserError(f"{option} {requested}: no job has it; known here: {shown}.")
    return metric


def sort_by_metric(jobs: Sequence[JobRecord], metric: str) -> list[JobRecord]:
    """Completed jobs by a metric, then the others: the last value of an unfinished job is not its result."""

    def rank(job: JobRecord) -> tuple[bool, float]:
        return job.status != "completed", -score(metric, job.metrics[metric]) if metric in job.metrics else inf

    return sorted(jobs, key=rank)


def best_jobs(jobs: Sequence[JobRecord], metrics: Sequence[str]) -> tuple[list[JobRecord], list[str]]:
    """The best job, or for several metrics those that no other beats in all of them, and the metrics.

    Args:
        jobs: Of a sweep.
        metrics: By which; by default the most informative one.

    Raises:
        UserError: if no finished job has them.
    """
    completed = [job for job in jobs if job.status == "completed"]
    if not completed:
        raise UserError("no job of the sweep has completed yet.")
    requested: list[str | None] = [*metrics] or [None]
    names = [select_metric(completed, name) for name in requested]
    having = [job for job in completed if all(name in job.metrics for name in names)]
    if not having:
        raise UserError(f"no job has all of {', '.join(names)}.")
    if len(names) == 1:
        return sort_by_metric(having, names[0])[:1], names
    front = [job for job in having if not any(_dominates(other, job, names) for other in having)]
    return sort_by_metric(front, names[0]), names


def means_over_seeds(jobs: Sequence[JobRecord]) -> list[JobRecord]:
    """Completed jobs that differ in seeds alone as one, with the means of the metrics that all of them have."""
    completed = [job for job in jobs if job.status == "completed"]
    parts = partition(completed, lambda job: frozenset(item for item in job.keys.items() if item[0] not in SEEDS))
    return [
        replace(
            members[0],
            overrides=tuple(x for x in members[0].overrides if override_key(x) not in SEEDS),
            metrics={name: mean.mean for name, mean in _estimates(members).items() if mean.count == len(members)},
            name=members[0].name + (f" and {len(members) - 1} more" if len(members) > 1 else ""),
        )
        for members in parts.values()
    ]


def to_cli_overrides(job: JobRecord) -> str:
    """The overrides of a job, ready to be pasted behind `python -m vae_exp.train`."""
    retained = [x for x in job.overrides if override_key(x).partition(".")[0] not in _OF_THE_SWEEP]
    an_experiment_may_be_a_sweep = any(override_key(x) == "experiment" for x in retained)
    return shlex.join([*retained, *(["hydra.mode=RUN"] if an_experiment_may_be_a_sweep else [])])


def _dominates(one: JobRecord, other: JobRecord, names: Sequence[str]) -> bool:
    differences = [score(name, one.metrics[name] - other.metrics[name]) for name in names]
    return min(differences) >= 0 and max(differences) > 0
