"""Where the wall time of a real training run goes: its own phase seconds, from `result.json`."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from vae_exp.configuration.overrides import override_key, quote_value
from vae_exp.errors import UserError
from vae_exp.storage.run_directory import RunDirectory

_SHARED = ("model", "data", "loss", "optimizer", "seed")
_REPORTED_LINES = 5


def profile_run(
    overrides: Sequence[str], batch_size: int, hidden_dims: Sequence[int], device: str
) -> dict[str, float]:
    """Train for one epoch by `vae_exp.train` in a fresh process, W&B offline.

    Args:
        overrides: Of the benchmark's command line; those of groups that training has too are passed on.
        batch_size: Images per step.
        hidden_dims: `model.hidden_dims`.
        device: Where to train.

    Returns:
        Seconds by phase, `rest` for everything else (the start and the end of the interpreter and of W&B), and
        `total`, the wall time of the process.

    Raises:
        UserError: with its last lines, if the run fails.
    """
    with tempfile.TemporaryDirectory(prefix="vae_exp_benchmark_") as scratch:
        run_dir = RunDirectory(Path(scratch) / "run")
        command = [
            *[sys.executable, "-m", "vae_exp.train"],
            *shared_overrides(overrides),
            f"model.hidden_dims={list(hidden_dims)}",
            f"trainer.batch_size={batch_size}",
            f"trainer.device={device}",
            "trainer.epochs=1",
            "tracker=offline",
            f"tracker.root={quote_value(scratch)}",
            f"hydra.run.dir={quote_value(str(run_dir.path))}",
        ]
        start = time.perf_counter()
        finished = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - ours
        total = time.perf_counter() - start
        if finished.returncode:
            output = finished.stderr.strip() or finished.stdout.strip()
            lines = "\n".join(output.splitlines()[-_REPORTED_LINES:])
            raise UserError(f"python -m vae_exp.train failed with exit code {finished.returncode}:\n{lines}")
        phases: dict[str, float] = (run_dir.read_result() or {})["phase_seconds"]
    return {**phases, "rest": total - sum(phases.values()), "total": total}


def shared_overrides(overrides: Sequence[str]) -> list[str]:
    """The overrides of groups and keys that `train` has too."""
    return [override for override in overrides if override_key(override).partition(".")[0] in _SHARED]
