"""A stopwatch whose phases nest: what a part spends inside another part is that one's."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

REST = "rest"


class Stopwatch:
    """Adds up the seconds of phases; outside any phase they are the rest's.

    Args:
        since: When the first second began.
        now: The clock.
    """

    def __init__(self, since: float, now: Callable[[], float] = time.time) -> None:
        self.seconds: dict[str, float] = {}
        self._now, self._since = now, since
        self._open: list[str] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """For the length of a block, time is that phase's, less what inner phases take."""
        self.charge()
        self._open.append(name)
        try:
            yield
        finally:
            self.charge()
            self._open.pop()

    def charge(self, name: str | None = None) -> None:
        """Book the time since the last booking to a phase; to the innermost that is open unless named."""
        now = self._now()
        phase = name or (self._open[-1] if self._open else REST)
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._since
        self._since = now

    def timed(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """The function, whose calls are a phase of that name."""

        @wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            with self.phase(name):
                return function(*arguments, **named)

        return call
