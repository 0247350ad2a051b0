"""The config that a run directory holds: read as data, with what may differ the next time."""

import copy
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from vae_exp.configuration.allowlist import check_no_resolvers, check_plain_yaml
from vae_exp.configuration.overrides import escape_interpolations
from vae_exp.configuration.renames import with_current_names
from vae_exp.errors import UserError
from vae_exp.storage.run_directory import RunDirectory


def load_stored_config(run_dir: RunDirectory, key: str = "run") -> DictConfig:
    """The composed config of a run, its interpolations as they are.

    Args:
        run_dir: The run directory.
        key: The key that named it, for messages.

    Raises:
        UserError: if there is no run, or if its config is more than plain values.
    """
    if not run_dir.path.is_dir():
        raise UserError(f"{key}={run_dir.path} is not a directory.")
    if not run_dir.config.is_file():
        raise UserError(f"{key}={run_dir.path} holds no run: {run_dir.config} is missing.")
    for path in (run_dir.config, run_dir.hydra_config):
        check_plain_yaml(path)
    check_no_resolvers(run_dir.config)
    try:
        plain = OmegaConf.to_container(OmegaConf.load(run_dir.config), resolve=False)
        stored = OmegaConf.create(with_current_names(plain))
    except (YAMLError, OmegaConfBaseException, RecursionError, AttributeError, ValueError) as error:
        raise UserError(f"{run_dir.config} is not a readable config: {error}") from error
    if not isinstance(stored, DictConfig) or not isinstance(stored.get("data"), DictConfig):
        raise UserError(f"{run_dir.config} holds no config of a run; expected a mapping with model and data.")
    return stored


def with_overrides(stored: DictConfig, values: Mapping[str, Any]) -> DictConfig:
    """A copy of a config with other values at some of its keys; `${` in a plain value is text."""
    config = copy.deepcopy(stored)
    for key, value in values.items():
        OmegaConf.update(config, key, escape_interpolations(value), merge=False, force_add=True)
    return config
