"""OmegaConf resolvers: the hash of a config, the directory of a run and the name of a sweep."""

import atexit
import hashlib
import json
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vae_exp.configuration.renames import with_first_names
from vae_exp.storage.run_directory import resumed_directory

NOT_PART_OF_IDENTITY = (
    "hydra",
    "tracker",
    "sweep",
    "checkpoint",
    "resume",
    "resume_on_other_pixels",
    "trusted_packages",
    "trust",
)
OVERRIDABLE_ON_RESUME = (
    "trainer.epochs",
    "trainer.device",
    "trainer.execution",
    "trainer.steps_per_graph",
    "trainer.threads",
    "trainer.early_stopping",
    "trainer.strategy",
    "data.root",
    "data.path",
    "data.preload_to_device",
    "checkpoint",
    "tracker",
)
EXCLUDED_KEYS = (  # change no result but by rounding
    "data.root",
    "trainer.steps_per_graph",
    "trainer.threads",
    "trainer.print_batch_sum",
)


def register_resolvers() -> None:
    """Make `${vae_exp.config_hash:}` and the others known."""
    for name, resolver in (
        ("config_hash", _config_hash),
        ("env", environment_value),
        ("tracker_mode", _tracker_mode),
        ("own_experiments", _own_experiments),
        ("sweep_name", _sweep_name),
        ("run_directory", _run_directory),
        ("scratch_directory", _scratch_directory),
    ):
        OmegaConf.register_new_resolver(f"vae_exp.{name}", resolver, replace=True)


def environment_value(name: str, default: Any = None) -> Any:
    """The value of an environment variable, or the default where it is empty; a list if the default is one."""
    value = os.environ.get(name, "").strip()
    if isinstance(default, Sequence) and not isinstance(default, str):
        return [part.strip() for part in value.split(",") if part.strip()] or default
    return value or default


def _own_experiments() -> str:
    """The experiments in the folder of `VAE_EXP_CONFIG`, as `--help` shows them; empty where there are none."""
    folder = Path(os.environ.get("VAE_EXP_CONFIG") or os.devnull, "experiment")
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    return f"; in {folder}: {', '.join(names)}" if names else ""


def environment_mode() -> str | None:
    """What `WANDB_MODE` says, as `tracker.mode` calls it; None where it is empty."""
    mode = environment_value("WANDB_MODE")
    return "none" if mode == "disabled" else mode


def _tracker_mode() -> str:
    """`WANDB_MODE`; else online in a run of `wandb agent`, whose sweep reads its metrics; else offline."""
    return environment_mode() or ("online" if "WANDB_SWEEP_ID" in os.environ else "offline")


def config_hash(config: DictConfig) -> str:
    """Eight hexadecimal digits that follow from the resolved config, less what does not change the result."""
    return hashlib.sha256(identifying_text(config).encode()).hexdigest()[:8]


def stored_config_hash(config: DictConfig) -> str:
    """As `config_hash`, of the config as a run directory stores it: no environment variable is read for it."""
    return hashlib.sha256(identifying_text(config, resolve=False).encode()).hexdigest()[:8]


def fixed_config_hash(config: DictConfig) -> str:
    """As `stored_config_hash`, less what a resume may change: all checkpoints of a run have the same."""
    text = identifying_text(config, resolve=False, excluded=(*EXCLUDED_KEYS, *OVERRIDABLE_ON_RESUME))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def config_hashes(config: DictConfig) -> dict[str, str]:
    """The hashes of a config that checkpoints have; `config_hash` serves `result.json`."""
    return {"config_hash": config_hash(config), "fixed_config_hash": fixed_config_hash(config)}


def identifying_text(config: DictConfig, *, resolve: bool = True, excluded: Sequence[str] = EXCLUDED_KEYS) -> str:
    """The config as JSON with sorted keys, less what does not change the result."""
    identifying = OmegaConf.masked_copy(config, [str(key) for key in config if key not in NOT_PART_OF_IDENTITY])
    try:
        parts = OmegaConf.to_container(identifying, resolve=resolve)
    except OmegaConfBaseException:  # the job itself says what is wrong; until then it needs a name
        parts = OmegaConf.to_container(identifying, resolve=False)
    for group, _, key in (name.partition(".") for name in excluded):
        if isinstance(parts, dict) and isinstance(parts.get(group), dict):
            parts[group].pop(key, None)
    return json.dumps(with_first_names(parts), sort_keys=True, default=str)


def _config_hash(*, _root_: DictConfig) -> str:
    return config_hash(_root_)


def _sweep_name(moment: str, *, _root_: DictConfig) -> str:
    return _root_.sweep.name or moment


def _run_directory(moment: str, *, _root_: DictConfig) -> str:
    """Where a single run goes: a directory of its own, or that of the run that is resumed."""
    if _root_.get("resume"):
        return str(resumed_directory(str(_root_.resume)).path)
    return f"outputs/{moment}-{config_hash(_root_)}"


@cache
def _scratch_directory() -> str:
    """A folder for what Hydra writes beside the jobs of a `--multirun`; it is removed when the process ends."""
    path = mkdtemp(prefix="vae_exp-")
    atexit.register(rmtree, path, ignore_errors=True)
    return path
