"""What every command that Hydra runs shares: what Hydra needs to know, and one message per error."""

import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from signal import SIGTERM

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from vae_exp.cli.command_line import format_error, prepare
from vae_exp.configuration import resolvers
from vae_exp.configuration.config_dir import config_dir
from vae_exp.configuration.schema import register_schemas
from vae_exp.errors import UserError, describe_error, exit_with_message
from vae_exp.sweep.manifest import register_job_name
from vae_exp.sweep.session import sweep_session

_FULL_ERROR = "HYDRA_FULL_ERROR"


Task = Callable[[DictConfig], None]


@contextmanager
def hydra_app(config_name: str) -> Iterator[Callable[[Task], Callable[[], None]]]:
    """A block in which Hydra composes the config of a command and runs its task; one message per error.

    The value is Hydra's decorator: `app(task)()` runs the task. A context manager adds no frames to a stack trace.
    Hydra prints long traces for errors of users; here it raises, and the message alone is shown unless
    `HYDRA_FULL_ERROR=1` is set.
    """
    _reopen_closed_std_streams()
    register_schemas()
    resolvers.register_resolvers()
    register_job_name()
    full_error = os.environ.get(_FULL_ERROR)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Unicode gets question marks, not a crash
    errors_of_logging = logging.raiseExceptions
    succeeded = True
    with exit_with_message(show_traceback=full_error == "1"), sweep_session() as session:
        os.environ[_FULL_ERROR] = "1"
        try:
            sys.argv[1:] = prepare(sys.argv[1:], config_name)
            logging.raiseExceptions = not {"--info", "-i"} & set(sys.argv)  # which log into a pipe
            yield hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=config_name)
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            if full_error == "1" or (isinstance(error, ValueError) and not _raised_by_hydra(error)):
                raise
            raise UserError(format_error(error)) from error
        except SystemExit as leaving:
            if full_error == "1" and isinstance(leaving.__cause__, UserError | OSError):
                raise leaving.__cause__ from None
            raise
        finally:
            logging.raiseExceptions = errors_of_logging
            if full_error is None:
                os.environ.pop(_FULL_ERROR, None)
            else:
                os.environ[_FULL_ERROR] = full_error
            succeeded = session.print_report()
    if not succeeded:
        sys.exit(1)


@contextmanager
def one_message_per_error() -> Iterator[None]:
    """A block of a task that ends a single run with the message alone; Hydra would add a line of its own.

    In a sweep the error is raised, so that the other jobs run. SIGTERM leaves the block as an error does, so that
    its temporary files are removed.
    """
    try:
        with _exit_on_sigterm():
            yield
    except (UserError, OSError) as error:
        if isinstance(error, BrokenPipeError) or HydraConfig.get().mode == RunMode.MULTIRUN:
            raise
        raise SystemExit(f"Error: {describe_error(error)}") from error


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(SIGTERM, signal.SIG_DFL)


def _raised_by_hydra(error: BaseException) -> bool:
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith("hydra.")


def _reopen_closed_std_streams() -> None:
    """Open closed standard streams on /dev/null, so that no file gets their numbers."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
            os.set_inheritable(opened, True)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115, PTH123 - for as long as the process lasts
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115, PTH123
