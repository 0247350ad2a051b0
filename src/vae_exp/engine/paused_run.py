"""What the steps of a paused run raise, raised in the run."""

from collections.abc import Generator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any


class raised_in(AbstractContextManager[None]):  # noqa: N801 - reads as a function
    """A block at a pause of a generator: what is raised in it is raised there.

    Args:
        run: A generator that yields where the block is due.
    """

    def __init__(self, run: Generator[Any, None, Any]) -> None:
        self._run = run

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Raise in the generator; an error that it does not handle, or its end, is raised here."""
        if error is not None:
            self._run.throw(error)
