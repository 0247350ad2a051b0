"""`python -m vae_exp.train`: compose a config, train, say where everything lies."""

import os
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vae_exp.cli.hydra_app import run_hydra_app
from vae_exp.engine import torchrun


def main() -> None:
    """The command line."""
    with tempfile.TemporaryDirectory() if not torchrun.is_main_process() else nullcontext() as scratch:
        if scratch is not None:  # of a team started by torchrun the leader alone writes
            sys.argv += [f"hydra.run.dir={scratch}", "hydra.job_logging.root.handlers=[file]"]
        run_hydra_app(_task, "train")


def _task(config: DictConfig) -> None:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from vae_exp.configuration.schema import resolve_to_dict
    from vae_exp.configuration.stored_config import read_config
    from vae_exp.engine.shutdown import GracefulShutdown
    from vae_exp.errors import Interrupted, RunLockedError, UserError
    from vae_exp.storage.run_directory import RunDirectory, resumed_directory

    _announce_loading()
    hydra = HydraConfig.get()
    overrides: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    own = RunDirectory(Path(hydra.runtime.output_dir))
    directory = resumed_directory(config.resume) if config.resume else own
    sweep = hydra.sweep.dir.rpartition("/")[2] if hydra.mode == RunMode.MULTIRUN else None
    try:
        with GracefulShutdown() as guard:
            from vae_exp.cli.console import print_run_summary, python_command
            from vae_exp.runs.training import assist, resume, train
            from vae_exp.sweep_job import run_job

            if not torchrun.is_main_process():
                assist(config, overrides, directory, guard)
                return
            if sweep is not None:
                run_job(config, overrides, directory, sweep, guard)
                return
            if config.resume:
                result = resume(config, overrides, directory, guard)
            else:
                result = train(config, directory, guard)
    except Interrupted as interruption:
        if torchrun.is_main_process():
            print(f"Interrupted; everything up to here is in {directory.path}", file=sys.stderr)
            print(f"Resume: {python_command()} -m vae_exp.train resume={directory.path}", file=sys.stderr)
        sys.exit(interruption.exit_code)
    except RunLockedError as error:
        if sweep is None:
            raise
        print(f"Left to the process that is at it: {error}", file=sys.stderr)
        return
    except UserError as error:
        if sweep is not None:
            print(f"Error: {directory.path.name}: {error}", file=sys.stderr)
        raise
    if sys.stdout is not None:
        try:
            print_run_summary(result, directory, resolve_to_dict(read_config(directory)))
            sys.stdout.flush()
        except BrokenPipeError:  # nobody reads any more; the run itself is whole
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _announce_loading() -> None:
    """Tell a person at a terminal what the next seconds are spent on."""
    if sys.stderr is not None and sys.stderr.isatty() and torchrun.is_main_process():
        print("Loading PyTorch …", file=sys.stderr)


if __name__ == "__main__":
    main()
