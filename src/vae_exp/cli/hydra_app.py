"""What every command that Hydra runs shares: what Hydra needs to know, and one message per error."""

import logging
import os
import sys
import traceback
from collections.abc import Callable
from functools import wraps
from io import TextIOWrapper

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from vae_exp.cli.command_line import config_directory, message_of, prepare
from vae_exp.configuration.schema import register_schemas
from vae_exp.errors import UserError, exit_with_message
from vae_exp.sweep import job_id
from vae_exp.sweep.session import recorder

_FULL_ERROR = "HYDRA_FULL_ERROR"


def run_hydra_app(task: Callable[[DictConfig], None], config_name: str) -> None:
    """Compose the config of a command from the command line and run its task; one message per error.

    Hydra prints long traces for errors of the user's; here it is told to raise, and the message alone is shown
    unless `HYDRA_FULL_ERROR=1` is set.
    """
    _open_missing_streams()
    register_schemas()
    job_id.register_resolvers()
    traced = os.environ.get(_FULL_ERROR)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Unicode gets question marks, not a crash

    @wraps(task)
    def told(config: DictConfig) -> None:
        try:
            task(config)
        except UserError as error:
            # An exception lets the other jobs of a sweep go on, but Hydra adds words of its own to it.
            if traced == "1" or HydraConfig.get().mode == RunMode.MULTIRUN:
                raise
            raise SystemExit(f"Error: {error}") from error

    main = hydra.main(version_base="1.3", config_path=str(config_directory()), config_name=config_name)(told)
    errors_of_logging = logging.raiseExceptions
    well = True
    with exit_with_message(show_traceback=traced == "1"):
        os.environ[_FULL_ERROR] = "1"
        try:
            sys.argv[1:] = prepare(sys.argv[1:], config_name)
            logging.raiseExceptions = not {"--info", "-i"} & set(sys.argv)  # which log into a pipe
            main()
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            if traced == "1" or (isinstance(error, ValueError) and not _raised_by_hydra(error)):
                raise
            raise UserError(message_of(error)) from error
        finally:
            logging.raiseExceptions = errors_of_logging
            if traced is None:
                os.environ.pop(_FULL_ERROR, None)
            else:
                os.environ[_FULL_ERROR] = traced
            well = recorder.report()
    if not well:
        sys.exit(1)


def _raised_by_hydra(error: BaseException) -> bool:
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith("hydra.")


def _open_missing_streams() -> None:
    """Where a caller has closed a standard stream, its number must not become that of a file or a pipe of ours."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
            os.set_inheritable(opened, True)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115, PTH123 - for as long as the process lasts
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115, PTH123
