"""Where the wall time of a real training run goes."""

import json
import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vae_exp.benchmark.stopwatch import REST
from vae_exp.benchmark.subprocesses import run_module
from vae_exp.sweep.manifest import quoted

SHARED = ("model", "data", "loss", "optimizer", "seed")
PHASES = (
    "interpreter start",
    "imports",
    "compose",
    "seeding",
    "data",
    "build",
    "tracker start",
    "training",
    "validation",
    "figures and evaluators",
    "checkpoint",
    "tracker log",
    "tracker finish",
    REST,
    "interpreter exit",
)


def run_costs(overrides: Sequence[str], batch_size: int, widths: Sequence[int], device: str) -> dict[str, Any]:
    """Train for one epoch by `vae_exp.train` in a process of its own, W&B offline.

    Args:
        overrides: Of the benchmark's command line; those of groups that training has too are passed on.
        batch_size: Images per step.
        widths: `model.hidden_dims`.
        device: Where to train.

    Returns:
        Seconds by phase, and their `total`: from the start of the process to its end.

    Raises:
        UserError: with its last words, if the run fails.
    """
    with tempfile.TemporaryDirectory(prefix="vae_exp_benchmark_") as scratch:
        file, began = Path(scratch) / "timings.json", time.time()
        arguments = [
            *shared(overrides),
            f"model.hidden_dims={list(widths)}",
            f"trainer.batch_size={batch_size}",
            f"trainer.device={device}",
            "trainer.epochs=1",
            "tracker=offline",
            f"tracker.root={quoted(scratch)}",
            f"hydra.run.dir={quoted(f'{scratch}/run')}",
        ]
        run_module("vae_exp.benchmark.timed_training", [str(file), repr(began), *arguments])
        ended = time.time()
        told = json.loads(file.read_text())
    seconds = {**told["seconds"], "interpreter exit": ended - told["ended"]}
    unknown = set(seconds) - set(PHASES)
    assert not unknown, unknown
    return {**{phase: seconds.get(phase, 0.0) for phase in PHASES}, "total": ended - began}


def shared(overrides: Sequence[str]) -> list[str]:
    """The overrides of groups and keys that `train` has too."""
    return [each for each in overrides if re.split(r"[.=/@]", each.lstrip("+~"))[0] in SHARED]
