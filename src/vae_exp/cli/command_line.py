"""Command lines for Hydra: what is checked before Hydra reads one, and the message when Hydra refuses it."""

import os
import re
from argparse import Namespace
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep
from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, Node, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError

from vae_exp.configuration.config_dir import config_dir
from vae_exp.configuration.overrides import from_python_values, quote_value, split_override
from vae_exp.configuration.parsing import strip_omegaconf_noise
from vae_exp.configuration.renames import rename_override
from vae_exp.errors import UserError, did_you_mean
from vae_exp.storage.run_directory import LATEST, find_latest_run

_LISTS = ("evaluator",)  # groups of which several options may be chosen
_MAY_BE_EMPTY = ("evaluator", "experiment")
_NULL_GROUP = "Config group override must be"  # how Hydra's message begins then
_MERGING = "Error merging override "
_NAMES_A_RUN = ("encode", "evaluate", "explore", "export", "generate")


def prepare(arguments: Sequence[str], config_name: str) -> list[str]:
    """The arguments of a command as Hydra takes them: its options, then the overrides.

    For commands on a run a path stands for `run=PATH`; an empty `experiment=` or `evaluator=` for an empty list.

    Args:
        arguments: Those of the command line, without the program.
        config_name: The command's primary config.

    Raises:
        UserError: names an option that does not exist, or an override that Hydra would take for something else.
    """
    parsed, unknown = get_args_parser().parse_known_intermixed_args(list(arguments))
    if unknown:
        raise UserError(_unknown_option(unknown[0], config_name))
    if parsed.experimental_rerun:
        raise UserError("--experimental-rerun runs a pickled job, which vae_exp does not write; use resume=DIR.")
    if parsed.multirun and (parsed.cfg or parsed.info):
        option = "--cfg" if parsed.cfg else "--info"
        raise UserError(f"{option} shows a single run: leave out --multirun, and give every key one value.")
    if parsed.multirun and config_name == "train" and "WANDB_SWEEP_ID" in os.environ:
        raise UserError(
            f"--multirun {' '.join(parsed.overrides)} trains several runs, and wandb agent starts one at a time: "
            f"leave out --multirun in the command of the sweep, and give every key one value, such as seed=0."
        )
    pools = "hydra/launcher=pool", "hydra/launcher=stacked"
    pool = next((text for text in parsed.overrides if text in pools), None)
    if pool and config_name != "train":
        remedy = "evaluate run=[A,B] or run=SWEEP scores several runs" if config_name == "evaluate" else ""
        raise UserError(f"{pool} is for the jobs of train; {remedy or 'leave it out'}.")
    if parsed.hydra_help:
        return ["--hydra-help"]  # Hydra composes it without a primary config, where no override has a place
    overrides: list[str] = parsed.overrides
    options = list(arguments)
    for override in overrides:
        options.remove(override)
    if not parsed.shell_completion:
        paths = [override for override in overrides if _is_path(override)]
        if len(paths) > 1 and config_name == "evaluate":
            overrides = [override for override in overrides if override not in paths]
            overrides.append(f"run=[{','.join(map(quote_value, paths))}]")
        elif len(paths) > 1 and config_name in _NAMES_A_RUN:
            raise UserError(
                f"{' '.join(paths)}: {config_name} takes one run; --multirun run={','.join(paths)} takes each."
            )
        in_grammar = (text for override in overrides for text in from_python_values(override))
        overrides = [*_own_config_dir(parsed), *(_prepare_override(text, config_name) for text in in_grammar)]
    return [*options, *overrides]


def _own_config_dir(parsed: Namespace) -> list[str]:
    if parsed.config_dir or any(text.startswith("hydra.searchpath=") for text in parsed.overrides):
        return []
    return own_search_path()


def own_search_path() -> list[str]:
    """The override that adds the folder of `VAE_EXP_CONFIG` to the places of options, as `--config-dir` does.

    Raises:
        UserError: if it is not a directory.
    """
    folder = os.environ.get("VAE_EXP_CONFIG")
    if not folder:
        return []
    if not Path(folder).is_dir():
        raise UserError(
            f"VAE_EXP_CONFIG={folder} is not a directory; it holds groups, such as experiment/mine.yaml."
        )
    return [f"hydra.searchpath=[{quote_value(f'file://{Path(folder).absolute()}')}]"]


def group_of(override: str) -> str | None:
    """The group of which an override chooses an option, such as `model/prior`; None if it sets a key."""
    group = split_override(override)[0].partition("@")[0]
    return group if group and (config_dir() / group).is_dir() else None


def _prepare_override(override: str, config_name: str) -> str:
    if _is_path(override):
        if config_name in _NAMES_A_RUN:
            return f"run={quote_value(override)}"
        is_run = config_name == "train" and ("/" in override or override == LATEST or Path(override).exists())
        remedy = f"resume={override} continues the run there" if is_run else "write it without spaces"
        raise UserError(f"{override} is not an override of the form key=value; {remedy}.")
    if override in (f"resume={LATEST}", f"initialize_from={LATEST}") and config_name == "train":
        key = override.partition("=")[0]
        return f"{key}={quote_value(str(find_latest_run(key)))}"
    override = rename_override(_with_expected_plus(override))
    group = group_of(override)
    if group is None:
        return override
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException:  # Hydra will say what is wrong
        return override
    chosen: Any = parsed.value()
    if group in _MAY_BE_EMPTY and chosen in ("", None) and not parsed.is_delete():
        return f"{group}=[]"
    for choice in chosen.list if isinstance(chosen, ChoiceSweep) else [chosen]:
        for name in choice if isinstance(choice, list) else []:
            if not isinstance(name, str):  # Hydra fails on it
                raise UserError(f"{override}: {name} is not an option of {group}; expected a list of names.")
        if isinstance(choice, list) and choice and group not in _LISTS:
            names = ",".join(map(str, choice))
            remedy = f"; --multirun {group}={names} tries each of them" if len(choice) > 1 else ""
            raise UserError(
                f"{group}=[{names}] is a list, and {group} takes one option: {group}={choice[0]}{remedy}."
            )
    return override


def _with_expected_plus(override: str) -> str:
    """The override with the `+` that Hydra expects: none before a group with a place, two before a variable."""
    if override.startswith("hydra.job.env_set."):
        return f"++{override}"
    return override[1:] if re.match(r"\+\w+=", override) and group_of(override[1:]) else override


def _is_path(override: str) -> bool:
    return not override.startswith("~") and ("=" not in override or Path(override).is_dir())


def _unknown_option(option: str, config_name: str) -> str:
    name, _, value = option.partition("=")
    options = [name for action in get_args_parser()._actions for name in action.option_strings]
    close = get_close_matches(name, options, n=1)
    if close:
        return f"{name} is not an option; did you mean {close[0]}?"
    key = name.lstrip("-").replace("-", "_")
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose(config_name)
    near = [key] if key in config else _nearest_keys(key, config)
    hint = ": " + " or ".join(f"{key}={value or '…'}" for key in near) if near else "; --help shows both"
    return f"{name} is not an option; keys of the config are set without dashes{hint}"


def format_error(error: BaseException) -> str:
    """An error in one message, with the nearest known name where one was misspelt."""
    cause = error.__cause__
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, InstantiationException) and isinstance(cause, UserError):  # of a launcher or sweeper
        return str(cause)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _unknown_choice(error)
    if isinstance(error, OverrideParseException):
        return _unreadable(error)
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and cause.parent_node is not None:
        return _unknown_key(cause)
    message = str(error).strip()
    override = message.partition(_MERGING)[2].partition("\n")[0]
    expected = _expected_type(str(cause.msg), override) if isinstance(cause, ValidationError) else None
    outside = re.match(r"In '(experiment/[^']+)'.*(@experiment\.|Key 'experiment' not in)", message, re.DOTALL)
    if expected:
        message = f"{override}: expected {expected}."
    elif outside:
        message = f"{outside[1]}.yaml sets keys of the whole config: add # @package _global_ as its first line."
    elif message.startswith(_NULL_GROUP):
        message = "a group cannot be null; choose one of its options, such as scheduler=none."
    elif isinstance(cause, OmegaConfBaseException) and str(cause) not in message:
        message += f"\n{cause}"
    return strip_omegaconf_noise(message)


def _expected_type(message: str, override: str) -> str | None:
    """What OmegaConf would take in place of an override's value, in words; None for a message of another kind."""
    names = {"to Integer": "an integer", "to Float": "a number", "to Boolean": "true or false"}
    value = override.partition("=")[2]
    names["is not a ListConfig"] = f"a list, such as [{value}]"
    return next((name for part, name in names.items() if part in message), None)


def _unknown_choice(error: MissingConfigException) -> str:
    group, _, name = str(error.missing_cfg_file).rpartition("/")
    options = sorted(error.options or (path.stem for path in (config_dir() / group).glob("*.yaml")))
    options = [option for option in options if not option.startswith("_")]
    if not group or not options:
        return str(error).partition("\n")[0]
    return f"{group}={name} is not an option of {group}; {did_you_mean(name, options)}" + (
        f" Options: {', '.join(options)}." if get_close_matches(name, options) else ""
    )


def _unreadable(error: OverrideParseException) -> str:
    key, _, value = error.override.partition("=")
    as_text = f"{key}={quote_value(value)}"
    reason = str(error).partition("\n")[0]
    if not value or value[0] in "[{('\"$":
        return f"{error.override}: {reason}."
    try:
        OverridesParser.create().parse_override(as_text)
    except HydraException:
        return f"{error.override}: {reason}."
    foreign = "".join(dict.fromkeys(character for character in value if not character.isascii()))
    reason = f"Hydra takes {foreign} within quotes only" if foreign else reason
    return f'{error.override}: {reason}; as text it is {as_text}, in a shell "{as_text}".'


def _unknown_key(error: ConfigKeyError | ConfigAttributeError) -> str:
    key = error.full_key or str(error.key)
    prefix, _, last = key.rpartition(".")
    keys = [str(name) for name in error.parent_node] if OmegaConf.is_dict(error.parent_node) else []
    refused = f"{key} is not a key of the config"
    if get_close_matches(last, keys):
        return f"{refused}; {did_you_mean(last, keys, f'{prefix}.' if prefix else '')}"
    having = _options_with(prefix, last)
    if having:
        choices = " or ".join(f"{prefix.replace('.', '/')}={option}" for option in having)
        return f"{refused}; it is one with {choices}. For a class of your own, say +{key}=…"
    near = _nearest_keys(last, error.parent_node._get_root())
    if near and not prefix:
        return f"{refused}; did you mean {' or '.join(near)}?"
    hint = f" To give a class of your own another argument, say +{key}=…" if "_target_" in keys else ""
    return f"{refused}; known here: {', '.join(keys)}.{hint}"


def _options_with(prefix: str, key: str) -> list[str]:
    """The options of the group at `prefix` whose file has a key."""
    options = sorted((config_dir() / prefix.replace(".", "/")).glob("[!_]*.yaml")) if prefix else []
    return [path.stem for path in options if key in OmegaConf.load(path)]


def _nearest_keys(name: str, config: DictConfig) -> list[str]:
    """Keys anywhere in a config whose last part is a name or, failing that, nearest to it; groups with slashes."""
    keys: dict[str, list[str]] = {}
    for key in _keys(config):
        is_group = (config_dir() / key.replace(".", "/")).is_dir()
        keys.setdefault(key.rpartition(".")[2], []).append(key.replace(".", "/") if is_group else key)
    close = get_close_matches(name, keys, n=1)
    return keys.get(name) or (keys[close[0]] if close else [])


def _keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
    """All keys but Hydra's, and those that take the value of another."""
    for key in config:
        node = config._get_node(key)
        if key == "hydra" or (isinstance(node, Node) and node._is_interpolation()):
            continue
        yield f"{prefix}{key!s}"
        if isinstance(node, DictConfig) and not (node._is_none() or node._is_missing()):
            yield from _keys(node, f"{prefix}{key!s}.")
