"""The jobs of a sweep that nothing beats, as overrides that can be pasted."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from vae_exp.configuration.resolvers import NOT_PART_OF_IDENTITY
from vae_exp.errors import UserError
from vae_exp.metrics import higher_is_better
from vae_exp.sweep.aggregate import SEEDS
from vae_exp.sweep.job_records import Job
from vae_exp.sweep.manifest import key_of
from vae_exp.sweep.metrics import best_first, chosen_metric

_OF_THE_SWEEP = {*NOT_PART_OF_IDENTITY} - {"trust"}  # whoever pastes the words trusts the same code


def best_jobs(jobs: Sequence[Job], metrics: Sequence[str]) -> tuple[list[Job], list[str]]:
    """The best job, or for several metrics those that no other beats in all of them, and the metrics.

    Args:
        jobs: Of a sweep.
        metrics: By which; none takes the one that says most.

    Raises:
        UserError: if no finished job has them.
    """
    completed = [job for job in jobs if job.status == "completed"]
    if not completed:
        raise UserError("no job of the sweep has completed yet.")
    asked: list[str | None] = [*metrics] or [None]
    names = [chosen_metric(completed, name) for name in asked]
    having = [job for job in completed if all(name in job.metrics for name in names)]
    if not having:
        raise UserError(f"no job has all of {', '.join(names)}.")
    if len(names) == 1:
        return best_first(having, names[0])[:1], names
    front = [job for job in having if not any(_dominates(other, job, names) for other in having)]
    return best_first(front, names[0]), names


def means_over_seeds(jobs: Sequence[Job]) -> list[Job]:
    """Completed jobs that differ in seeds alone as one, with the means of the metrics that all of them have."""
    members: dict[tuple[str, ...], list[Job]] = {}
    for job in jobs:
        if job.status == "completed":
            words = tuple(each for each in job.overrides if key_of(each) not in SEEDS)
            members.setdefault(words, []).append(job)
    return [
        replace(
            each[0],
            overrides=words,
            metrics={
                name: fmean(job.metrics[name] for job in each)
                for name in each[0].metrics
                if all(name in job.metrics for job in each)
            },
            name=each[0].name + (f" and {len(each) - 1} more" if len(each) > 1 else ""),
        )
        for words, each in members.items()
    ]


def as_words(job: Job) -> str:
    """The overrides of a job, ready to be pasted behind `python -m vae_exp.train`."""
    kept = [each for each in job.overrides if key_of(each).partition(".")[0] not in _OF_THE_SWEEP]
    an_experiment_may_be_a_sweep = any(key_of(each) == "experiment" for each in kept)
    return shlex.join([*kept, *(["hydra.mode=RUN"] if an_experiment_may_be_a_sweep else [])])


def _dominates(one: Job, other: Job, names: Sequence[str]) -> bool:
    differences = [
        (one.metrics[name] - other.metrics[name]) * (1 if higher_is_better(name) else -1) for name in names
    ]
    return min(differences) >= 0 and max(differences) > 0
