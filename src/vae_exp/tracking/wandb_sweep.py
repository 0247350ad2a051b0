"""The parameters that a sweep of Weights & Biases gives to a run, and the config under the sweep's keys."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vae_exp.storage.atomic_io import read_yaml

_VERSION = "wandb_version"


def sweep_parameters() -> dict[str, Any]:
    """The parameters of a run that `wandb agent` has started, from its file; none for other runs.

    Raises:
        UserError: if the file cannot be read.
    """
    path = os.environ.get("WANDB_SWEEP_PARAM_PATH")
    entries = read_yaml(Path(path)) if path else {}
    return {name: entry["value"] for name, entry in entries.items() if name != _VERSION}


def with_keys_of_sweep(config: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A config in which each value that a sweep sets has one key, that of the sweep.

    A sweep reads the parameters of its runs from their configs, each under the name that it has in the sweep, and
    W&B writes them there. Nested parameters are nested in our config too. A group of which the sweep has a dotted
    key, such as `model.latent_dim`, or an option, as in `model: conv`, gets dotted keys: otherwise a value would
    be there twice, or the option would replace the group.

    Args:
        config: The config, nested.
        parameters: The values by the names of the sweep.
    """
    own: dict[str, Any] = {}
    for name, value in config.items():
        chosen = parameters.get(name, {})
        if not isinstance(value, dict):
            own[name] = value
        elif not isinstance(chosen, dict) or any(key.startswith(f"{name}.") for key in parameters):
            own |= _with_dotted_keys(name, value)
        else:
            own[name] = with_keys_of_sweep(value, chosen)
    return own


def _with_dotted_keys(prefix: str, tree: Mapping[str, Any]) -> dict[str, Any]:
    keys: dict[str, Any] = {}
    for name, value in tree.items():
        path = f"{prefix}.{name}"
        keys |= _with_dotted_keys(path, value) if isinstance(value, dict) and value else {path: value}
    return keys
