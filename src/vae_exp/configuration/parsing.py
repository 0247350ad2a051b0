"""Composed and stored configs as plain containers, and as typed objects whose values are checked."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from vae_exp.configuration.overrides import escape_interpolations
from vae_exp.errors import UserError, did_you_mean

T = TypeVar("T")
_INTERNALS = ("reference_type=", "object_type=")


def resolve_to_dict(config: DictConfig, image_shape: Sequence[int] | None = None) -> dict[str, Any]:
    """The config as plain containers, every interpolation resolved.

    Args:
        config: A composed or stored config.
        image_shape: `[channels, height, width]` of the data, where the config left it to them.

    Raises:
        UserError: if a value is missing or an interpolation leads nowhere.
    """
    try:
        shape = {} if image_shape is None else {"data": {"image_shape": list(image_shape)}}
        plain = OmegaConf.to_container(OmegaConf.merge(config, shape), resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        remedy = "run=outputs/DIR, or run=latest" if error.full_key == "run" else f"set it, {error.full_key}=…"
        raise UserError(f"{error.full_key} is missing; {remedy}") from error
    except OmegaConfBaseException as error:
        raise UserError(f"the config cannot be resolved: {strip_omegaconf_noise(str(error))}") from error
    except RecursionError as error:
        raise UserError("the config cannot be resolved: it is nested without end.") from error
    if not isinstance(plain, dict):
        raise UserError(f"the config is a {type(plain).__name__}; expected a mapping.")
    return {str(key): value for key, value in plain.items()}


def parse_config(config: DictConfig, schema: type[T]) -> T:
    """The configuration as typed objects, every value within its range.

    Raises:
        UserError: names the key, its value and what would be right.
    """
    plain = resolve_to_dict(config)
    _check_keys(plain, schema, "")
    try:
        settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), escape_interpolations(plain)))
    except OmegaConfBaseException as error:
        raise UserError(strip_omegaconf_noise(str(error))) from error
    if not isinstance(settings, schema):
        raise UserError(f"the config does not follow {schema.__name__}.")
    _check_values(settings, "")
    return settings


def strip_omegaconf_noise(text: str) -> str:
    """An OmegaConf message without the lines that tell a user nothing."""
    return "\n".join(line for line in text.strip().splitlines() if not line.strip().startswith(_INTERNALS))


def _check_keys(plain: Mapping[str, Any], schema: type, prefix: str) -> None:
    types = get_type_hints(schema)
    names = [key.name for key in fields(schema)]
    for key, value in plain.items():
        if key not in names:
            hint = did_you_mean(key, names, prefix)
            raise UserError(f"{prefix}{key}={value} is not a key of the config; {hint}")
        if is_dataclass(types[key]) and isinstance(value, Mapping):
            _check_keys(value, types[key], f"{prefix}{key}.")


def _check_values(settings: Any, prefix: str) -> None:
    for key in fields(settings):
        value = getattr(settings, key.name)
        if is_dataclass(value):
            _check_values(value, f"{prefix}{key.name}.")
        elif value is not None and "check" in key.metadata:
            key.metadata["check"](f"{prefix}{key.name}", value, *key.metadata["limits"])
