"""The W&B run of a training run: its settings, its sources and its best checkpoint."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import vae_exp
from vae_exp.configuration.allowlist import untrusted_packages
from vae_exp.configuration.naming import file_name, identifying_values
from vae_exp.configuration.resolvers import environment_mode, environment_value
from vae_exp.configuration.schema import TrackerConfig
from vae_exp.errors import UserError
from vae_exp.storage.atomic_io import read_yaml
from vae_exp.storage.run_directory import RunDirectory
from vae_exp.tracking.wandb_tracker import WandbTracker

_log = logging.getLogger(__name__)
_MOST_CHARACTERS = 80  # of the overrides in the name of a single run
VARIABLES = {
    "mode": "WANDB_MODE",
    "project": "WANDB_PROJECT",
    "entity": "WANDB_ENTITY",
    "group": "WANDB_RUN_GROUP",
    "name": "WANDB_NAME",
    "notes": "WANDB_NOTES",
    "tags": "WANDB_TAGS",
    "root": "WANDB_DIR",
}


def start_wandb(
    settings: TrackerConfig,
    config: Mapping[str, Any],
    directory: RunDirectory,
    state: Mapping[str, Any] | None,
    run_id: str | None,
    sweep: str | None,
    overrides: Mapping[str, str],
    swept: Mapping[str, str],
    *,
    is_alone: bool = True,
) -> WandbTracker | None:
    """Start or continue the W&B run; None without one.

    Args:
        settings: The group `tracker`.
        config: The whole config, as plain containers.
        directory: The run directory.
        state: What a resumed run continues from; None for a new run.
        run_id: The id of the W&B run to continue; None starts one.
        sweep: The name of the sweep whose job the run is; None outside a sweep.
        overrides: The values of the job that affect its result, by key.
        swept: Those in which the jobs of the sweep differ.
        is_alone: Whether no other run of this process has a W&B run at the same time.
    """
    message = overruled_variables(settings, is_resumed=state is not None)
    if message:
        _log.info(message)
    if settings.mode == "none":
        return None
    config = {**config, "run_directory": str(directory.path)}
    if sweep:
        config |= {"overrides": dict(overrides), "swept": dict(swept)}
    record = {} if state is None else directory.read_wandb()
    stored = {key: value for key, value in record.items() if isinstance(value, str)}  # of the last start
    tracker = WandbTracker(
        mode=settings.mode,
        root=Path(settings.root),
        project=settings.project,
        entity=settings.entity,
        group=settings.group or stored.get("group") or sweep,
        job_type=stored.get("job_type") or ("sweep" if sweep else "train"),
        name=settings.name or stored.get("name") or (directory.path.name if sweep else _run_name(directory)),
        notes=settings.notes,
        tags=settings.tags,
        config=config,
        run_id=run_id,
        epoch=None if state is None else state["epoch"],
        is_alone=is_alone,
    )
    if settings.save_code:
        tracker.log_code(_sources(config))
    return tracker


def overruled_variables(settings: TrackerConfig, *, is_resumed: bool = False) -> str:
    """Which values of the config are used instead of those of W&B's environment variables; empty if none is."""
    used, unused = [], []
    keys = ["mode"] if settings.mode == "none" else list(VARIABLES)
    for key in keys:
        value: Any = getattr(settings, key)
        default: Any = [] if key == "tags" else None
        variable = environment_mode() if key == "mode" else environment_value(VARIABLES[key], default)
        if variable and variable != value:
            used.append(f"tracker.{key}={getattr(settings, key)}")
            unused.append(f"{VARIABLES[key]}={os.environ[VARIABLES[key]]}")
    beginning = "The run keeps its own" if is_resumed else "The config decides"
    return f"{beginning}: {', '.join(used)}, not {', '.join(unused)}." if used else ""


def log_best_checkpoint(tracker: WandbTracker, directory: RunDirectory, result: Mapping[str, Any]) -> None:
    """Log `best.pt` and the config as an artifact; where it is downloaded to, `load_run` opens it.

    Args:
        tracker: Of the run.
        directory: The run directory.
        result: The contents of `result.json`.
    """
    paths = [directory.checkpoint("best"), directory.config]
    if paths[0].exists():
        files = {path.relative_to(directory.path).as_posix(): path for path in paths}
        tracker.log_model(files, {"monitor": result["monitor"], **result["best"]})


def _sources(config: Mapping[str, Any]) -> dict[str, Path]:
    """The Python files of vae_exp, and of packages in the working directory that the config names."""
    packages = [Path(vae_exp.__file__).parent, *(Path.cwd() / name for name in untrusted_packages(config))]
    return {
        path.relative_to(package.parent).as_posix(): path
        for package in packages
        for path in (package.with_suffix(".py"), *package.rglob("*.py"))
        if path.is_file()
    }


def _run_name(directory: RunDirectory) -> str:
    """Data, model, overrides and directory of a single run: `digits-mlp_latent_dim-2_19-26-15-c04f2e13`."""
    try:
        hydra = read_yaml(directory.hydra_config)["hydra"]
        choices, values = hydra["runtime"]["choices"], identifying_values(hydra["overrides"]["task"])
        name = f"{choices['data']}-{choices['model']}"
    except (OSError, UserError, KeyError, TypeError, AttributeError):  # none of Hydra's files is needed
        return directory.path.name
    others = [key for key in values if key not in ("data", "model")]
    if others:
        name += f"_{file_name(values, others)[:_MOST_CHARACTERS]}"
    return f"{name}_{directory.path.name}"
