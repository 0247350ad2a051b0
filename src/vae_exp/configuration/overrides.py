"""Overrides of a command line as strings: their keys and values, and values within quotes."""

import ast
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from vae_exp.configuration.config_dir import config_dir

_EXPONENT = re.compile(r"[-+]?\d+[eE][-+]?\d+")  # 1e-4, which PyYAML takes for a string


def split_override(override: str) -> tuple[str, str]:
    """The key of an override as it is written, without `+` or `~`, and its value."""
    key, _, value = override.lstrip("+~").partition("=")
    return key, value


def override_key(override: str) -> str:
    """The key of an override with dots: `+a.b=1` has `a.b`, `a/b=c` and `a/b@d=c` too."""
    return split_override(override)[0].partition("@")[0].replace("/", ".")


def overrides_by_key(overrides: Iterable[str]) -> dict[str, str]:
    """The values of overrides by their keys as they are written; `deleted` for `~key`."""
    values = ((split_override(override), override.startswith("~")) for override in overrides)
    return {key: "deleted" if is_deleted else value for (key, value), is_deleted in values}


def quote_value(text: str) -> str:
    """A value as Hydra's grammar takes it, whatever characters it has."""
    escaped = re.sub(r"(\\*)('|$)", lambda match: 2 * match[1] + (match[2] and "\\'"), text)
    return f"'{escaped}'"


def shell_word(key: str, path: object) -> str:
    """An override as it is typed in a shell; quoted for the shell and for Hydra where the path needs it."""
    text = str(path)
    is_plain = re.fullmatch(r"[\w./+@:~-]+", text, re.ASCII)
    return f"{key}={text}" if is_plain else shlex.quote(f"{key}={quote_value(text)}")


def escape_interpolations(value: Any) -> Any:
    """Plain containers in which every `${` is text to OmegaConf, as they are once resolved."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    if isinstance(value, dict):
        return {key: escape_interpolations(entry) for key, entry in value.items()}
    return [escape_interpolations(entry) for entry in value] if isinstance(value, list) else value


def from_python_values(override: str) -> list[str]:
    """An override whose value is written as Python's `str` writes it, in Hydra's grammar; others as they are.

    `wandb agent` writes values that way. `key=None` is `key=null`; a mapping with quoted keys, which Hydra does
    not take, sets the keys in it: `model={'latent_dim': 8, 'likelihood': 'gaussian'}` is `model.latent_dim=8`
    and `model/likelihood='gaussian'`. Within a list `None` remains a string.
    """
    key, _, text = override.partition("=")
    if text == "None":
        return [f"{key}=null"]
    try:
        tree = ast.literal_eval(text) if re.match(r"\{\s*['\"]", text) else None
    except (ValueError, TypeError, SyntaxError):  # Hydra says what is wrong
        return [override]
    return list(_leaves(key, tree)) if isinstance(tree, dict) and tree else [override]


def _leaves(key: str, tree: Mapping[Any, Any]) -> Iterator[str]:
    for name, value in tree.items():
        path = f"{key}.{name}"
        group = path.lstrip("+").replace(".", "/")
        if isinstance(value, dict) and value:
            yield from _leaves(path, value)
        elif isinstance(value, str) and (config_dir() / group).is_dir():
            yield f"{group}={quote_value(value)}"
        else:
            yield f"{path}={_in_grammar(value)}"


def _in_grammar(value: Any) -> str:
    if isinstance(value, str):
        return value if _EXPONENT.fullmatch(value) else quote_value(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_in_grammar, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_in_grammar(item)}" for key, item in value.items()) + "}"
    return "null" if value is None else str(value)
