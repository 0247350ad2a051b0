"""The sweep that a command runs: its directories, failures and closing report."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from vae_exp.errors import quantity
from vae_exp.sweep.tables import print_summary


class SweepSession:
    """The directories and failures of a sweep; Hydra's callback, launcher and sweeper add to it."""

    def __init__(self) -> None:
        self._directories: list[tuple[Path, bool]] = []
        self._failures = self._jobs = 0
        self._trial_problems: list[str] | None = None

    def track(self, directory: Path, has_wandb_runs: bool = False) -> None:
        """Report on a sweep's directory at the end; with W&B runs the dashboard is offered."""
        self._directories.append((directory.absolute(), has_wandb_runs))

    def add_failures(self, failures: int, jobs: int) -> None:
        """Add `jobs` that were tried, of which so many failed."""
        self._jobs += jobs
        self._failures += failures

    def set_trial_counts(self, failed: int, unfinished: int) -> None:
        """Report the numbers of failed and of unfinished trials of a search instead of failures of jobs."""
        self._trial_problems = []
        if failed:
            self._trial_problems.append(
                f"{quantity(failed, 'trial')} failed; failed trials are not repeated and count as trials."
            )
        if unfinished:
            report = f"Not ended: {quantity(unfinished, 'trial')}; run the same command to continue."
            self._trial_problems.append(report)

    def print_report(self) -> bool:
        """Print the table of the sweep, if there was one, and write its `summary.csv`; whether all succeeded."""
        for directory, has_wandb_runs in self._directories:
            try:
                print_summary(directory)
                if has_wandb_runs:
                    print(f"Dashboard: {sys.executable} -m vae_exp.dashboard {directory}")
            except OSError as error:  # a full disk or a closed pipe costs the table alone
                with suppress(OSError):
                    print(f"Error: the table of the sweep could not be written: {error}", file=sys.stderr)
        problems = self._problems()
        for problem in problems:
            print(f"Error: {problem}", file=sys.stderr)
        return not problems

    def _problems(self) -> list[str]:
        if self._trial_problems is not None:
            return self._trial_problems
        report = f"{self._failures} of {quantity(self._jobs, 'job')} tried did not finish"
        return [f"{report}; run the same command to continue."] if self._failures else []


_session: ContextVar[SweepSession] = ContextVar("sweep_session")


@contextmanager
def sweep_session() -> Iterator[SweepSession]:
    """A block with a session, which `current_session` finds: Hydra creates launchers and sweepers."""
    session = SweepSession()
    token = _session.set(session)
    try:
        yield session
    finally:
        _session.reset(token)


def current_session() -> SweepSession:
    """The session of the block; outside of one a new one, which is not reported."""
    return _session.get(SweepSession())
