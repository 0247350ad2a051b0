"""A training run started from Python: `vae_exp.train([...])`."""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from vae_exp.cli.callbacks import check_run, without_hydra_node
from vae_exp.cli.command_line import format_error, prepare
from vae_exp.configuration.config_dir import config_dir
from vae_exp.configuration.overrides import override_key
from vae_exp.configuration.resolvers import register_resolvers
from vae_exp.configuration.schema import register_schemas
from vae_exp.errors import Interrupted, UserError
from vae_exp.storage.run_directory import RunDirectory, lock_run_directory, resumed_directory

if TYPE_CHECKING:
    from vae_exp.runs.trained_run import TrainedRun

_THREAD = threading.local()
_TRAINING = threading.Lock()  # Hydra's state and the random state belong to the process


def train(overrides: Sequence[str] = ()) -> "TrainedRun":
    """Train one run in this process, as `python -m vae_exp.train` does, and open it.

    Logging, signal handlers and Hydra's state are left as they were; what the run logs goes to its `train.log`,
    warnings to stderr too.
    The random state of the process changes, because the run seeds it; runs in several threads wait for each other.

    Args:
        overrides: Those of a command line, such as `["data=digits", "model.latent_dim=8"]`, without options and
            sweeps; `resume=DIR` continues a run.

    Returns:
        The run, with the weights of its best epoch.

    Raises:
        TypeError: if `overrides` is no list of strings.
        UserError: with the message that the command prints.
        KeyboardInterrupt: on Ctrl-C, after the current step; the run can be resumed.
    """
    from vae_exp.configuration.allowlist import untrusted_packages
    from vae_exp.configuration.parsing import resolve_to_dict
    from vae_exp.configuration.stored_config import load_stored_config
    from vae_exp.engine.shutdown import GracefulShutdown
    from vae_exp.runs.resume import load_resume_state
    from vae_exp.runs.trained_run import load_run
    from vae_exp.runs.training import paused_training, run_training

    with _one_run_at_once(), _composed(overrides) as config:
        task = without_hydra_node(config)
        run_dir = resumed_directory(task.resume) if task.resume else RunDirectory(Path(config.hydra.run.dir))
        with lock_run_directory(run_dir), _logged_to(run_dir.log), GracefulShutdown() as shutdown:
            state = load_resume_state(run_dir, task, config.hydra.overrides.task) if task.resume else None
            try:
                run_training(paused_training(task, run_dir, shutdown, resume_state=state), shutdown)
            except Interrupted as interruption:
                raise KeyboardInterrupt(f"{interruption}; vae_exp.train(['resume={run_dir.path}'])") from None
        data, named = {"root": task.data.root, "path": task.data.path}, []
        if task.resume:  # only what the overrides say is the caller's
            given = [*map(override_key, config.hydra.overrides.task)]
            data = {name: value for name, value in data.items() if f"data.{name}" in given}
        else:
            named = untrusted_packages(resolve_to_dict(load_stored_config(run_dir)))
    trusted = [*task.trusted_packages, *named]  # the caller has named these classes
    return load_run(run_dir.path, trusted_packages=trusted, data=data)


@contextmanager
def _one_run_at_once() -> Iterator[None]:
    """A block that waits for the runs of other threads; a run of this thread would wait for itself."""
    if getattr(_THREAD, "is_training", False):
        raise UserError(
            "vae_exp.train is called by the run that it trains: call it after that, or in a process of its own."
        )
    with _TRAINING:
        _THREAD.is_training = True
        try:
            yield
        finally:
            _THREAD.is_training = False


@contextmanager
def _composed(overrides: Sequence[str]) -> Iterator[DictConfig]:
    """The checked config with Hydra's section, which Hydra knows within the block."""
    _require_overrides(overrides)
    register_schemas()
    register_resolvers()
    hydra: Any = HydraConfig.instance()
    before = hydra.cfg
    try:
        with initialize_config_dir(str(config_dir()), job_name="train", version_base="1.3"):
            config = compose("train", prepare(list(overrides), "train"), return_hydra_config=True)
            if config.hydra.mode == RunMode.MULTIRUN:
                raise UserError(
                    f"vae_exp.train trains one run, and {' '.join(overrides)} is a sweep: start it with python -m "
                    f"vae_exp.train, or train one run of its settings with hydra.mode=RUN."
                )
            check_run(config)
            hydra.set_config(config)  # which makes Hydra's section read-only
            yield config
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(format_error(error)) from error
    finally:
        hydra.cfg = before


def _require_overrides(overrides: Any) -> None:
    is_list = isinstance(overrides, Sequence) and not isinstance(overrides, str)
    if not is_list or not all(isinstance(override, str) for override in overrides):
        raise TypeError(
            f"vae_exp.train({overrides!r}): expected a list of overrides, such as ['data=digits', 'seed=1']."
        )
    for override in overrides:
        if override.startswith("-"):
            raise UserError(
                f"{override} is an option of python -m vae_exp.train; the function takes overrides alone, such "
                f"as data=digits."
            )


@contextmanager
def _logged_to(path: Path) -> Iterator[None]:
    """Write what this package logs to a file within the block, warnings to stderr if nothing else handles them."""
    logger = logging.getLogger("vae_exp")
    handler = logging.FileHandler(path, delay=True)
    handler.setFormatter(logging.Formatter("[%(asctime)s][%(levelname)s] %(message)s"))
    level = logger.level
    last_resort = None if logger.hasHandlers() else logging.lastResort
    handlers = [handler, *([last_resort] if last_resort else [])]
    for added in handlers:
        logger.addHandler(added)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for added in handlers:
            logger.removeHandler(added)
        handler.close()
        logger.setLevel(level)
