"""Remembers what a sweep has begun, so that its table and its failures are told however it ends."""

import sys
from contextlib import suppress
from pathlib import Path

from vae_exp.sweep.summary import print_summary


class SweepSession:
    """What this process knows of the sweep that it runs."""

    def __init__(self) -> None:
        self._directories: list[tuple[Path, bool]] = []
        self._failures: list[str] = []
        self._jobs = 0
        self._of_a_search: list[str] | None = None

    def remember(self, directory: Path, tracked: bool = False) -> None:
        """A sweep writes into this directory; its jobs may have W&B runs to be looked at."""
        self._directories.append((directory.absolute(), tracked))

    def note(self, failures: list[str], jobs: int) -> None:
        """Of so many jobs more these have failed, each with its reason."""
        self._jobs += jobs
        self._failures += failures

    def note_search(self, failed: int, unfinished: int) -> None:
        """So many trials of a search have failed in all, and stay so; so many are begun and not ended."""
        told = [f"{failed} trials failed; they stay so, and count as trials."] if failed else []
        if unfinished:
            told.append(f"{unfinished} trials have not ended; run the same command to continue them.")
        self._of_a_search = told

    def report(self) -> bool:
        """Print the table of the sweep, if there was one, and write its `summary.csv`; whether all went well."""
        while self._directories:
            directory, tracked = self._directories.pop()
            try:
                print_summary(directory)
                if tracked:
                    print(f"Dashboard: {sys.executable} -m vae_exp.dashboard {directory}")
            except OSError as error:  # a full disk or a closed pipe costs the table, not what the jobs have left
                with suppress(OSError):
                    print(f"Error: the table of the sweep could not be written: {error}", file=sys.stderr)
        problems = self._problems()
        for problem in problems:
            print(f"Error: {problem}", file=sys.stderr)
        self._failures, self._jobs, self._of_a_search = [], 0, None
        return not problems

    def _problems(self) -> list[str]:
        if self._of_a_search is not None:
            return self._of_a_search
        if not self._failures:
            return []
        return [
            f"{len(self._failures)} of {self._jobs} jobs that were tried did not finish; "
            f"run the same command to continue."
        ]


recorder = SweepSession()
