"""What Hydra's sweeper asks of a search: run trials until there are enough."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus

from vae_exp.errors import UserError
from vae_exp.storage.run_directory import RunDirectory
from vae_exp.sweep.pool.job import End, Job
from vae_exp.sweep.search.study import Claim, Search
from vae_exp.sweep.session import current_session


def run_in_pool(search: Search, launcher: Any) -> None:
    """Have a pool run the trials: a slot that falls free takes the next one.

    Args:
        search: Where trials come from.
        launcher: The pool's.
    """
    source = _Source(search)
    try:
        launcher.stream(source, search.total, search.total - search.remaining())
    finally:
        source.release()
        current_session().set_trial_counts(search.failures(), search.unfinished())
    if source.problem is not None:
        raise source.problem


class _Source:
    """Hands the trials of a search to a pool, one by one."""

    def __init__(self, search: Search) -> None:
        self._search = search
        self._claims: dict[int, Claim] = {}
        self._given_back: set[int] = set()  # their jobs are in other hands
        self._twins: list[tuple[Claim, RunDirectory]] = []  # proposed again while the same job was running here
        self.problem: UserError | None = None

    def take(self) -> Job | None:
        """The next trial, as a job; None if there is none."""
        claim = None if self.problem else self._search.claim(self._given_back)
        if claim is None:
            return None
        self._claims[claim.number] = claim
        return Job(claim.number, claim.overrides)

    def ended(self, job: Job) -> None:
        """A job has ended; one that was stopped with the sweep is left for the next time."""
        claim = self._claims.pop(job.number)
        if job.end is End.ELSEWHERE and job.directory is not None:
            self._twins.append((claim, job.directory))
            return
        self._tell(claim, job.directory)
        same = [
            claim for claim, directory in self._twins if job.directory and directory.path == job.directory.path
        ]
        self._twins = [each for each in self._twins if each[0] not in same]
        for each in same:
            self._tell(each, job.directory)

    def _tell(self, claim: Claim, directory: RunDirectory | None) -> None:
        try:
            if not self._search.tell(claim, directory):
                self._given_back.add(claim.number)
        except UserError as error:  # of every job alike
            self.problem = error
            self._search.release(claim)

    def release(self) -> None:
        """Let go of what has not ended."""
        for claim in [*self._claims.values(), *(claim for claim, _ in self._twins)]:
            self._search.release(claim)
        self._claims, self._twins = {}, []


def run_in_batches(search: Search, launcher: Any, batch_size: int) -> None:
    """Have any launcher run the trials, some at a time.

    Args:
        search: Where trials come from.
        launcher: Hydra's.
        batch_size: How many it is given at once.
    """
    failed: list[str] = []
    given_back: set[int] = set()
    count = 0
    while claims := [claim for _ in range(batch_size) if (claim := search.claim(given_back)) is not None]:
        try:
            returns = _launched(launcher, claims)
            for claim, ended in zip(claims, returns, strict=True):
                directory = _directory(ended)
                if not search.tell(claim, directory):
                    given_back.add(claim.number)
                if ended.status is not JobStatus.COMPLETED:
                    failed.append(f"trial {claim.number}: {ended._return_value}")
        finally:
            for claim in claims:
                search.release(claim)
        count += len(claims)
    current_session().add_failures(failed, count)
    current_session().set_trial_counts(search.failures(), search.unfinished())


def _launched(launcher: Any, claims: Sequence[Claim]) -> Sequence[JobReturn]:
    """Trials of one batch have numbers one after the other only where no other process searches too."""
    numbers = [claim.number for claim in claims]
    if numbers == list(range(numbers[0], numbers[0] + len(numbers))):
        results: Sequence[JobReturn] = launcher.launch([claim.overrides for claim in claims], numbers[0])
        return results
    return [ended for claim in claims for ended in launcher.launch([claim.overrides], claim.number)]


def _directory(ended: JobReturn) -> RunDirectory | None:
    if ended.hydra_cfg is None:
        return None
    return RunDirectory(Path(str(ended.hydra_cfg.hydra.runtime.output_dir)))
