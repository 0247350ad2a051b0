"""Remembers what a sweep has begun, so that its table and its failures are told however it ends."""

import sys
from pathlib import Path

from vae_exp.sweep.summary import print_summary


class Recorder:
    """What this process knows of the sweep that it runs."""

    def __init__(self) -> None:
        self._directories: list[Path] = []
        self._failures: list[str] = []
        self._jobs = 0

    def remember(self, directory: Path) -> None:
        """A sweep writes into this directory."""
        self._directories.append(directory.absolute())

    def note(self, failures: list[str], jobs: int) -> None:
        """Of so many jobs more these have failed, each with its reason."""
        self._jobs += jobs
        self._failures += failures

    def report(self) -> bool:
        """Print the table of the sweep, if there was one, and write its `summary.csv`; whether all went well."""
        while self._directories:
            print_summary(self._directories.pop())
        failures, self._failures = self._failures, []
        if failures:
            told = f"{len(failures)} of {self._jobs} jobs did not finish; the same command runs them again."
            print(f"Error: {told}", file=sys.stderr)
        self._jobs = 0
        return not failures


recorder = Recorder()
