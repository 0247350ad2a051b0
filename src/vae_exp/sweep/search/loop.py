"""The loop of a search: run trials until there are enough."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus

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
    source = _TrialSource(scheduler)
    try:
        launcher.stream(source, scheduler.total, scheduler.total - scheduler.remaining())
    finally:
        source.release()
        current_session().set_trial_counts(scheduler.failures(), scheduler.unfinished())
    if source.problem is not None:
        raise source.problem


class _TrialSource:
    """Hands the trials of a search to a pool, one by one."""

    def __init__(self, scheduler: TrialScheduler) -> None:
        self._scheduler = scheduler
        self._leases: dict[int, TrialLease] = {}
        self.problem: UserError | None = None

    def take(self) -> Job | None:
        """The next trial, as a job; None if there is none."""
        lease = None if self.problem else self._scheduler.lease()
        if lease is None:
            return None
        self._leases[lease.number] = lease
        return Job(lease.number, lease.overrides)

    def ended(self, job: Job) -> None:
        """A job has ended; the lease of one that can be resumed is kept, so that it is not run again at once."""
        try:
            self._scheduler.tell(self._leases[job.number], job.directory)
        except UserError as error:  # it holds for every job
            self.problem = error

    def release(self) -> None:
        """Release the leases of trials without a result."""
        for lease in self._leases.values():
            self._scheduler.release(lease)


def run_in_batches(scheduler: TrialScheduler, launcher: Any, batch_size: int) -> None:
    """Run the trials with any launcher, some at a time.

    Args:
        scheduler: Where trials come from.
        launcher: Hydra's.
        batch_size: How many it is given at once.
    """
    failed: list[str] = []
    leases: list[TrialLease] = []
    try:
        while batch := [lease for _ in range(batch_size) if (lease := scheduler.lease()) is not None]:
            leases += batch
            for lease, result in zip(batch, _launch(launcher, batch), strict=True):
                scheduler.tell(lease, _directory(result))
                if result.status is not JobStatus.COMPLETED:
                    failed.append(f"trial {lease.number}: {result._return_value}")
    finally:
        for lease in leases:
            scheduler.release(lease)
    current_session().add_failures(failed, len(leases))
    current_session().set_trial_counts(scheduler.failures(), scheduler.unfinished())


def _launch(launcher: Any, leases: Sequence[TrialLease]) -> Sequence[JobReturn]:
    """Trials of one batch have numbers one after the other only where no other process searches too."""
    numbers = [lease.number for lease in leases]
    if numbers == list(range(numbers[0], numbers[0] + len(numbers))):
        results: Sequence[JobReturn] = launcher.launch([lease.overrides for lease in leases], numbers[0])
        return results
    return [result for lease in leases for result in launcher.launch([lease.overrides], lease.number)]


def _directory(result: JobReturn) -> RunDirectory | None:
    if result.hydra_cfg is None:
        return None
    return RunDirectory(Path(str(result.hydra_cfg.hydra.runtime.output_dir)))
