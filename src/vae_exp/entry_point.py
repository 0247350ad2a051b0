"""What every command shares: where the config lies, what Hydra needs to know, how errors are told."""

import os
import sys
from collections.abc import Callable
from difflib import get_close_matches
from functools import wraps
from importlib.resources import files
from io import TextIOWrapper
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from vae_exp.errors import UserError
from vae_exp.settings import register_schemas, without_internals
from vae_exp.sweep import identity
from vae_exp.sweep.recorder import recorder

_FULL_ERROR = "HYDRA_FULL_ERROR"
_NULL_GROUP = "Config group override must be"  # how Hydra's trace ends then


def config_directory() -> Path:
    """The folder `conf`: inside the installed package, or beside `src` in a checkout.

    Raises:
        UserError: if it is in neither place.
    """
    installed = Path(str(files("vae_exp"))) / "conf"
    checkout = Path(__file__).resolve().parents[2] / "conf"
    for folder in (installed, checkout):
        if (folder / "train.yaml").is_file():
            return folder
    raise UserError(f"the folder conf is neither at {installed} nor at {checkout}; install vae-exp again.")


def run_command(task: Callable[[DictConfig], None], config_name: str) -> None:
    """Compose the config of a command from the command line and run its task; one message per error.

    Hydra prints long traces for errors of the user's; here it is told to raise, and the message alone is shown
    unless `HYDRA_FULL_ERROR=1` is set.
    """
    _open_missing_streams()
    register_schemas()
    identity.register_resolvers()
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
    os.environ[_FULL_ERROR] = "1"
    try:
        main()
    except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
        if traced == "1":
            raise
        print(f"Error: {message_of(error)}", file=sys.stderr)
        sys.exit(1)
    except ValueError as error:
        if traced == "1" or not str(error).startswith(_NULL_GROUP):
            raise
        print("Error: a group cannot be null; choose one of its options, such as scheduler=none.", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        if traced is None:
            os.environ.pop(_FULL_ERROR, None)
        else:
            os.environ[_FULL_ERROR] = traced
        well = recorder.report()
    if not well:
        sys.exit(1)


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


def message_of(error: BaseException) -> str:
    """An error in one message, with the nearest known key where one was misspelt."""
    if isinstance(error, UserError):
        return str(error)
    cause = error.__cause__
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and cause.parent_node is not None:
        return _unknown_key(cause)
    told = str(error).strip()
    if isinstance(cause, OmegaConfBaseException) and str(cause) not in told:
        told += f"\n{cause}"
    return without_internals(told)


def _unknown_key(error: ConfigKeyError | ConfigAttributeError) -> str:
    key = error.full_key or str(error.key)
    prefix, _, last = key.rpartition(".")
    known = [str(name) for name in error.parent_node] if OmegaConf.is_dict(error.parent_node) else []
    close = get_close_matches(last, known, n=1)
    place = f"{prefix}." if prefix else ""
    if close:
        return f"{key} is not a key of the config; did you mean {place}{close[0]}?"
    told = f"{key} is not a key of the config; known here: {', '.join(known)}."
    return f"{told} To give the class another argument, say +{key}=…" if "_target_" in known else told
