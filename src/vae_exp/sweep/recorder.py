"""Remembers that a sweep has started, so that its table is printed however it ends."""

from pathlib import Path

from vae_exp.sweep.summary import print_summary

_started: list[Path] = []


def remember(directory: Path) -> None:
    """A sweep writes into this directory."""
    _started.append(directory.absolute())


def report() -> None:
    """Print the table of the sweep that was started, if one was, and write its `summary.csv`."""
    while _started:
        print_summary(_started.pop())
