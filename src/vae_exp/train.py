"""`python -m vae_exp.train`: compose a config, train, say where everything lies."""

import os
import sys
from pathlib import Path

from omegaconf import DictConfig

from vae_exp.entry_point import run_command


def main() -> None:
    """The command line."""
    run_command(_task, "train")


def _task(config: DictConfig) -> None:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from vae_exp.engine.interruption import InterruptGuard
    from vae_exp.errors import Interrupted, UserError
    from vae_exp.run_directory import RunDirectory

    hydra = HydraConfig.get()
    directory = RunDirectory(Path(hydra.runtime.output_dir))
    sweep = hydra.sweep.dir.rpartition("/")[2] if hydra.mode == RunMode.MULTIRUN else None
    try:
        with InterruptGuard() as guard:
            from vae_exp.report import print_result
            from vae_exp.training_run import train

            result = train(config, directory, sweep, guard)
    except Interrupted as interruption:
        print(f"Interrupted; everything up to here is in {directory.path}", file=sys.stderr)
        sys.exit(interruption.exit_code)
    except UserError as error:
        if sweep is not None:
            print(f"Error: {directory.path.name}: {error}", file=sys.stderr)
        raise
    if sweep is None and sys.stdout is not None:
        try:
            print_result(result, directory)
            sys.stdout.flush()
        except BrokenPipeError:  # nobody reads any more; the run itself is whole
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
