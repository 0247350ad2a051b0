"""Faults of a command line that the types of the config do not show: keys in vain, data that are not there."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vae_exp.configuration.renames import ADDED_DATA_KEYS
from vae_exp.data.data_path import absolute_data_path
from vae_exp.errors import UserError

_SCHEDULE = "loss/schedule@"
_OF_SOME_MODELS = ("latent_dims", "top_hidden_dims", "classes", "num_codes", "code_dim")
_PARTS = ("encoder", "decoder", "prior", "likelihood")


def check_unused_overrides(config: DictConfig, choices: Mapping[str, Any]) -> None:
    """Refuse what would be ignored without a word.

    Args:
        config: As composed, its interpolations as they are.
        choices: The option that was chosen of each group, by the group's name in the defaults list.

    Raises:
        UserError: if a number stands where a schedule was chosen, or if the model uses a key of its group nowhere.
    """
    for group, option in choices.items():
        if group.startswith(_SCHEDULE):
            _check_schedule(config, group, str(option))
    for key in _OF_SOME_MODELS:
        _check_key_is_used(config, key)
    for key, default in ADDED_DATA_KEYS.items():
        _check_data_key_is_used(config, key, default)


def check_data_path(path: str | None, target: str = "") -> None:
    """Refuse images that are not there, before torch is loaded.

    Args:
        path: `data.path`.
        target: The class that reads it.

    Raises:
        UserError: if it is missing, or does not exist.
    """
    is_folder = target.endswith(".FolderSource")
    location = absolute_data_path(path, is_folder=is_folder)
    if not location.exists():
        what = "the folder of your images" if is_folder else "the file or folder of your images"
        raise UserError(f"data.path={location} does not exist; name {what}.")


def _check_schedule(config: DictConfig, group: str, option: str) -> None:
    key = group.removeprefix(_SCHEDULE)
    value = OmegaConf.select(config, key)
    if not isinstance(value, DictConfig):
        raise UserError(
            f"{key}={value} overrides {group}={option}; leave out one of the two (the end of the schedule is "
            f"{key}.end)."
        )


def _check_key_is_used(config: DictConfig, key: str) -> None:
    value = OmegaConf.select(config, f"model.{key}")
    if value is None or f"${{model.{key}}}" in OmegaConf.to_yaml(config, resolve=False):
        return
    nodes = [OmegaConf.select(config, f"model.{part}") for part in _PARTS]
    if not any(isinstance(node, DictConfig) and key in node for node in nodes):
        raise UserError(f"model.{key}={value} is not used by this model; leave it out, or choose another model.")


def _check_data_key_is_used(config: DictConfig, key: str, default: Any) -> None:
    value = OmegaConf.select(config, f"data.{key}")
    if value == default or key == "augment" or f"${{data.{key}}}" in OmegaConf.to_yaml(config, resolve=False):
        return
    raise UserError(f"data.{key}={value} is not used by these data; leave it out, or choose other data.")
