"""`python -m vae_exp.train`, and `vae_exp.train([...])`, a training run in this process.

    run = vae_exp.train(["data=digits", "model.latent_dim=8"])
    run = vae_exp.train(["resume=outputs/DIR", "trainer.epochs=100"])

The argument is a list of overrides, as on the command line (`python -m vae_exp.train --help` lists them), without
options such as `--multirun`. The value is the run (`vae_exp.TrainedRun`) with the weights of its best epoch. What
it logs is in its `train.log`; warnings go to the logging of the process, or else to stderr. What the command would
refuse raises `vae_exp.errors.UserError`.
"""

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from vae_exp.cli.hydra_app import hydra_app, one_message_per_error
from vae_exp.engine import torchrun

if TYPE_CHECKING:
    from vae_exp.runs.trained_run import TrainedRun

__all__ = ["main"]
_STARTED = time.perf_counter()


def main() -> None:
    """The command line."""
    with tempfile.TemporaryDirectory() if not torchrun.is_main_process() else nullcontext() as scratch:
        if scratch is not None:  # of torchrun's processes only the main one writes
            sys.argv += [f"hydra.run.dir={scratch}", "hydra.job_logging.root.handlers=[file]"]
        with hydra_app("train") as app:
            app(train)()


def train(config: DictConfig) -> None:
    """Train a run, resume one, or do what is left of a job of a sweep."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from vae_exp.engine.shutdown import GracefulShutdown
    from vae_exp.storage.run_directory import RunDirectory, lock_run_directory, resumed_directory

    phases = {"compose": time.perf_counter() - _STARTED}
    hydra = HydraConfig.get()
    overrides: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    own_dir = RunDirectory(Path(hydra.runtime.output_dir))
    run_dir = resumed_directory(config.resume) if config.resume else own_dir
    is_job = hydra.mode == RunMode.MULTIRUN
    _announce_loading()
    with one_message_per_error(), _exit_code_of_interruption(run_dir, is_job), GracefulShutdown() as shutdown:
        start = time.perf_counter()
        from vae_exp.runs.resume import load_resume_state
        from vae_exp.runs.training import paused_training, run_training

        phases["imports"] = time.perf_counter() - start
        if is_job:
            _run_job(config, overrides, run_dir, Path(hydra.sweep.dir).name, shutdown)
            return
        with lock_run_directory(run_dir) if torchrun.is_main_process() else nullcontext():
            resume_state = load_resume_state(run_dir, config, overrides) if config.resume else None
            if torchrun.is_main_process() and resume_state is None:
                run_dir.require_free()  # another process may have trained here since the callback looked
            run = paused_training(config, run_dir, shutdown, resume_state=resume_state, phases=phases)
            result = run_training(run, shutdown)
    if torchrun.is_main_process() and result is not None:
        _print_summary(result, run_dir)


def _run_job(config: DictConfig, overrides: list[str], run_dir: Any, sweep: str, shutdown: Any) -> None:
    from vae_exp.errors import RunLockedError, UserError
    from vae_exp.runs.training import run_training
    from vae_exp.sweep.run_job import paused_job

    try:
        run_training(paused_job(config, overrides, run_dir, sweep, shutdown), shutdown)
    except RunLockedError as error:
        print(f"Skipped: {error}", file=sys.stderr)
    except UserError as error:
        print(f"Error: {run_dir.path.name}: {error}", file=sys.stderr)
        raise


def _print_summary(result: dict[str, Any], run_dir: Any) -> None:
    from vae_exp.cli.console import print_run_summary
    from vae_exp.configuration.parsing import resolve_to_dict
    from vae_exp.configuration.stored_config import load_stored_config

    if sys.stdout is None:
        return
    try:
        print_run_summary(result, run_dir, resolve_to_dict(load_stored_config(run_dir)))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has closed the pipe; the run is complete
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _exit_code_of_interruption(run_dir: Any, is_job: bool) -> Iterator[None]:
    from vae_exp.errors import Interrupted, quantity

    try:
        yield
    except Interrupted as interruption:
        if torchrun.is_main_process():
            from vae_exp.cli.console import python_command
            from vae_exp.configuration.overrides import shell_word

            result = run_dir.read_result()  # there is none yet where a killed run was about to be resumed
            after = f" after {quantity(result.get('epochs', 0), 'epoch')}" if result else ""
            print(f"Interrupted{after}; everything up to here is in {run_dir.path}", file=sys.stderr)
            resume = f"Resume: {python_command()} -m vae_exp.train {shell_word('resume', run_dir.path)}"
            print("Run the same command to continue." if is_job else resume, file=sys.stderr)
        sys.exit(interruption.exit_code)


def _announce_loading() -> None:
    """Say at a terminal what the next seconds are spent on."""
    if sys.stderr is not None and sys.stderr.isatty() and torchrun.is_main_process():
        print("Loading PyTorch …", file=sys.stderr)


class _CallableModule(ModuleType):
    """This module, which `vae_exp.train([...])` calls: a function of that name would hide it."""

    def __call__(self, overrides: Sequence[str] = ()) -> "TrainedRun":
        """Train one run; see `vae_exp.cli.from_python.train`."""
        from vae_exp.cli.from_python import train as train_from_python

        return train_from_python(overrides)


sys.modules[__name__].__class__ = _CallableModule

if __name__ == "__main__":
    main()
