"""Ctrl-C and SIGTERM end a run in order."""

import os
import signal
import threading
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Self

from vae_exp.errors import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class GracefulShutdown:
    """While it is entered, the first Ctrl-C or SIGTERM is noted and raised by the next `check`.

    A second signal ends the process at once, the system's way. Outside the main thread, where Python
    delivers no signals, it does nothing.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._restore()

    @property
    def received(self) -> int | None:
        """The signal that has come, if one has."""
        return self._received

    def check(self) -> None:
        """Raise what was received.

        Raises:
            Interrupted: if a signal has come since the guard was entered.
        """
        if self._received is not None:
            raise Interrupted(self._received)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received = number
        with suppress(OSError):  # nobody may be listening any more
            os.write(2, b"\nStopping after the current step; press Ctrl-C again to stop at once.\n")
        for each in self._previous:
            signal.signal(each, signal.SIG_DFL)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous = {}
