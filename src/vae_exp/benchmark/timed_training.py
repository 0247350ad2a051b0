"""`vae_exp.train` with a stopwatch on its parts, in a process of its own.

    python -m vae_exp.benchmark.timed_training FILE BEGAN OVERRIDE…

FILE gets the seconds by phase and the moment of writing, as JSON; BEGAN is when this process was started.
The parts are found by name and wrapped from outside: training itself knows nothing of it.
"""

import json
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from vae_exp.benchmark.stopwatch import REST, Stopwatch

IMPORTED = ("vae_exp.train", "vae_exp.runs.training", "vae_exp.cli.console", "vae_exp.evaluation.figures", "wandb")
OPENING = "vae_exp.runs.training:build_splits"
PARTS = {
    "vae_exp.train:_task": REST,  # what comes before it is Hydra's
    "vae_exp.runs.training:seed_everything": "seeding",
    "vae_exp.runs.training:set_deterministic": "seeding",
    "vae_exp.runs.training:place": "data",
    "vae_exp.runs.training:build_vae": "build",
    "vae_exp.runs.training:build_loss": "build",
    "vae_exp.runs.training:build_evaluators": "build",
    "vae_exp.runs.training:build_optimizer": "build",
    "vae_exp.runs.training:build_scheduler": "build",
    "vae_exp.runs.training:Trainer.__init__": "build",
    "vae_exp.runs.training:WandbTracker.__init__": "tracker start",
    "vae_exp.runs.training:WandbTracker.log": "tracker log",
    "vae_exp.runs.training:WandbTracker.log_figures": "tracker log",
    "vae_exp.runs.training:WandbTracker.finish": "tracker finish",
    "vae_exp.engine.trainer:Trainer._train_epoch": "training",
    "vae_exp.engine.validation:Validator.run": "validation",
    "vae_exp.engine.evaluator_loop:run_evaluator": "figures and evaluators",
    "vae_exp.engine.evaluator_loop:save_figures": "figures and evaluators",
    "vae_exp.engine.checkpoint_manager:save_checkpoint": "checkpoint",
}


def main() -> None:
    """The command line."""
    file, began, *overrides = sys.argv[1:]
    stopwatch = Stopwatch(float(began))
    stopwatch.charge("interpreter start")
    with stopwatch.phase("imports"):
        for module in IMPORTED:
            import_module(module)
    wrap_parts(stopwatch)
    _train(stopwatch, overrides)
    stopwatch.charge()
    Path(file).write_text(json.dumps({"seconds": stopwatch.seconds, "ended": time.time()}))


def wrap_parts(stopwatch: Stopwatch) -> None:
    """Put the stopwatch around every part of a training run."""
    for place, phase in PARTS.items():
        owner, name = located(place)
        setattr(owner, name, stopwatch.timed(getattr(owner, name), phase))
    owner, name = located(OPENING)
    build = getattr(owner, name)

    def opened(*arguments: Any) -> Any:
        splits = build(*arguments)
        _ = splits.train  # reads the files, which would otherwise happen at first use
        return splits

    setattr(owner, name, stopwatch.timed(opened, "data"))


def located(place: str) -> tuple[Any, str]:
    """What holds the function of that place, `module:name` or `module:Class.name`, and its name there."""
    module, _, path = place.partition(":")
    *owners, name = path.split(".")
    owner: Any = import_module(module)
    for each in owners:
        owner = getattr(owner, each)
    return owner, name


def _train(stopwatch: Stopwatch, overrides: Sequence[str]) -> None:
    sys.argv = ["vae_exp.train", *overrides]
    with stopwatch.phase("compose"):
        import_module("vae_exp.train").main()


if __name__ == "__main__":
    main()
