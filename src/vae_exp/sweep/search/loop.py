"""The loop of a search: run trials until there are enough."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from vae_exp.errors import UserError
from vae_exp.storage.run_directory import RunDirectory
from vae_exp.sweep.pool.job import Job
from vae_exp.sweep.search.study import TrialLease, TrialScheduler
from vae_exp.sweep.session import current_session


def run_in_pool(scheduler: TrialScheduler, launcher: Any) -> None:
    """Run the trials in a pool: a free slot takes the next one.

    Args:
        scheduler: Where trials come from.
        launcher: The pool's.
    """
    leases: dict[int, TrialLease] = {}
    problems: list[UserError] = []

    def jobs() -> Iterator[Job]:
        while not problems and (lease := scheduler.lease()) is not None:
            leases[lease.number] = lease
            yield Job(lease.number, lease.overrides)

    def tell(job: Job) -> None:
        """The lease of a trial that can be resumed is kept, so that it is not run again at once."""
        try:
            scheduler.tell(leases[job.number], job.directory)
        except UserError as error:  # it holds for every job
            problems.append(error)

    ended = sum(count for state, count in scheduler.counts().items() if state.is_finished())
    try:
        launcher.stream(jobs(), scheduler.total, min(ended, scheduler.total), tell)
    finally:
        _end(scheduler, leases.values())
    if problems:
        raise problems[0]


def run_in_batches(scheduler: TrialScheduler, launcher: Any, batch_size: int) -> None:
    """Run the trials with any launcher, some at a time.

    Args:
        scheduler: Where trials come from.
        launcher: Hydra's.
        batch_size: How many it is given at once.
    """
    leases: list[TrialLease] = []
    try:
        while batch := [lease for _ in range(batch_size) if (lease := scheduler.lease()) is not None]:
            leases += batch
            results = launcher.launch([lease.overrides for lease in batch], batch[0].number)
            for lease, result in zip(batch, results, strict=True):
                if result.hydra_cfg:  # a job that was killed has none; its trial can be resumed
                    scheduler.tell(lease, RunDirectory(Path(str(result.hydra_cfg.hydra.runtime.output_dir))))
    finally:
        _end(scheduler, leases)


def _end(scheduler: TrialScheduler, leases: Iterable[TrialLease]) -> None:
    for lease in leases:
        scheduler.release(lease)
    current_session().set_trial_counts(scheduler.counts()[TrialState.FAIL], scheduler.unfinished())
