"""A context manager that hands errors to a paused generator."""

from collections.abc import Generator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any


class ThrowInto(AbstractContextManager[None]):
    """A context manager that throws the errors of its block into a paused generator.

    Args:
        run: The generator; it is paused at the `yield` in place of which the block runs.
    """

    def __init__(self, run: Generator[Any, None, Any]) -> None:
        self._run = run

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Raise in the generator; an error that it does not handle, or its end, is raised here."""
        if error is not None:
            self._run.throw(error)
