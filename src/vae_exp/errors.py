"""The errors that a user can mend: each names the key, the value and what would be right."""

import signal


class UserError(Exception):
    """Something that the user gave cannot be used; shown as one message, without a traceback."""


class Interrupted(Exception):  # noqa: N818 - a request, not an error
    """Ctrl-C or SIGTERM asked the run to end; `signal_number` says which."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number

    @property
    def exit_code(self) -> int:
        """The shell's convention: 128 + signal, so 130 for Ctrl-C and 143 for SIGTERM."""
        return 128 + self.signal_number


class Pruned(Exception):  # noqa: N818 - a decision, not an error
    """A search has ended the run early: others were better by then."""


class InUseError(UserError):
    """Another process holds what this one would need."""


class MemoryExhaustedError(UserError):
    """The device has run out of memory."""


class DivergedError(UserError):
    """The loss became infinite or not a number."""
