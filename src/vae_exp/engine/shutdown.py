"""Orderly ends on SIGINT and SIGTERM, for runs and for sweeps."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any, Self

from vae_exp.errors import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class GracefulShutdown:
    """Within its block, SIGINT and SIGTERM are noted instead of ending the process.

    Outside the main thread, where Python delivers no signals, it does nothing.

    Args:
        second_signal_kills: For a run: a second signal ends the process at once, by the system's default.
            Otherwise, for the launcher of jobs, signals are counted, and ignored after the block if one was
            received: the process is about to end, and what it still writes is short.
    """

    def __init__(self, *, second_signal_kills: bool = True) -> None:
        self.signal_number: int | None = None
        self.count = 0
        self._at_once = False
        self._second_signal_kills = second_signal_kills
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        ignore = self.count and not self._second_signal_kills
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_IGN if ignore else handler)
        self._previous = {}

    def raise_if_requested(self) -> None:
        """Raise the first signal that was received.

        Raises:
            Interrupted: if there is one.
        """
        if self.signal_number is not None:
            raise Interrupted(self.signal_number)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Raise a signal where it arrives within the block: for long work that is not made of steps.

        Raises:
            Interrupted: if there is a signal, from before or during the block.
        """
        self.raise_if_requested()
        self._at_once = True
        try:
            yield
        except Exception:
            self.raise_if_requested()  # whatever a library has made of it
            raise
        finally:
            self._at_once = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        self.signal_number = self.signal_number or number
        if not self._second_signal_kills:
            return
        if self._at_once:
            self._at_once = False
            raise Interrupted(number)
        with suppress(OSError):  # standard error may be closed
            os.write(2, b"\nStopping after the current step; a second signal stops at once.\n")
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
