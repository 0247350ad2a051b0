"""Errors that a user can fix: each names the key, the value and what would be right."""

import errno
import os
import signal
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

_NOT_OF_A_USER = {"vae_exp", "hydra", "numpy", "omegaconf", "torch", "torchvision", *sys.stdlib_module_names}

_REMEDIES = {
    errno.ENOSPC: "free some space there",
    errno.EDQUOT: "free some of your quota there",
    errno.EACCES: "change its permissions",
    errno.EPERM: "change its permissions",
}


class UserError(Exception):
    """Something that the user gave cannot be used; shown as one message, without a traceback."""


class ArgumentError(UserError, ValueError):
    """An argument of a constructor is out of range; the message begins with `name=value`."""


class Interrupted(Exception):  # noqa: N818 - a request, not an error
    """Ctrl-C or SIGTERM asked the run to end; `signal_number` says which."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(
            "by Ctrl-C" if signal_number == signal.SIGINT else f"by {signal.Signals(signal_number).name}"
        )
        self.signal_number = signal_number

    def __reduce__(self) -> tuple[type["Interrupted"], tuple[int]]:
        """The number makes it again: processes that share a run send it to one another."""
        return Interrupted, (self.signal_number,)

    @property
    def exit_code(self) -> int:
        """The shell's convention: 128 + signal, so 130 for Ctrl-C and 143 for SIGTERM."""
        return 128 + self.signal_number


class TrialPruned(Exception):  # noqa: N818 - a decision, not an error
    """A search has ended the run early: others were better by then."""


class RunLockedError(UserError):
    """Another process holds what this one would need."""


class MemoryExhaustedError(UserError):
    """The device has run out of memory."""


class DivergedError(UserError):
    """The loss became infinite or not a number."""


def describe_error(error: UserError | OSError) -> str:
    """What a user reads of an error: where a file cannot be read or written, its path, the reason and a remedy."""
    if isinstance(error, UserError) or error.filename is None or error.strerror is None:
        return str(error)
    remedy = _REMEDIES.get(error.errno or 0)
    return f"{os.fsdecode(error.filename)}: {error.strerror}{f'; {remedy}' if remedy else ''}."


@contextmanager
def exit_with_message(*, show_traceback: bool = False) -> Iterator[None]:
    """Turn the expected errors of a command into one message on stderr and an exit code.

    The code is 1 for an error, 130 for Ctrl-C and 141 where the reader of standard output has closed the pipe.

    Args:
        show_traceback: Leave errors as they are raised.
    """
    try:
        try:
            yield
        finally:
            if sys.stdout is not None and not sys.stdout.closed:
                sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered has no reader
        sys.exit(141)
    except KeyboardInterrupt:
        sys.exit(130)
    except (UserError, OSError) as error:
        if show_traceback:
            raise
        sys.exit(f"Error: {describe_error(error)}")


def quantity(count: int, noun: str) -> str:
    """`1 run`, `2 runs`, `1,000 runs`: a number of things, whose plural ends in s."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """A question with the name nearest to a misspelt one, after `prefix`; all names where none is near."""
    names = [str(each) for each in known]
    close = get_close_matches(name, names, n=1)
    if close:
        return f"did you mean {prefix}{close[0]}?"
    return f"known here: {', '.join(names)}."


def user_code_location(error: BaseException) -> str:
    """` (losses.py, line 12)`: the innermost line of an error in code that is not installed; empty if in none."""
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        path, package = Path(frame.f_code.co_filename), str(frame.f_globals.get("__name__")).partition(".")[0]
        if package not in _NOT_OF_A_USER and not {"site-packages", "dist-packages"} & set(path.parts):
            return f" ({path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}, line {line})"
    return ""
