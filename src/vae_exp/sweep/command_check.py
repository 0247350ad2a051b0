"""The check of a stored command, which another person may have written, before `retry` runs it.

Arguments are refused unless they can make Hydra neither read other files nor run other code. Each job checks the
values that they set, as those of a stored config.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from vae_exp.errors import UserError

TRUST = "command"  # trusted_packages=[command] runs the commands as they are
_FLAGS = ("-m", "--multirun")
_SEARCH_KEYS = ("n_trials", "objectives", "directions", "sampler", "pruner", "conditions", "batch_size")
_NUMBERS = re.compile(r"null|true|false|[\d.e+-]+|\[[\d.,\s]*\]")
_NAME = r"\w[\w-]*"
_QUOTED = rf"'?{_NAME}'?"
_NAMES = re.compile(rf"{_QUOTED}|\[\s*{_QUOTED}(\s*,\s*{_QUOTED})*\s*\]")
_NAMED = ("partition", "account", "qos", "constraint", "mps", "members", "gpus")  # of a launcher, by names
_ADDRESS = "hydra.launcher.ray.init.address"
_RESERVED = ("hydra", "sweep", "trusted_packages", "resume")


def check_command(argv: Sequence[str], folder: Path, sweep: Path) -> None:
    """Refuse a stored command that could run code, or read configs, beyond those that are installed.

    Args:
        argv: The command line, without the program.
        folder: Where the command was given; Python imports from there.
        sweep: The sweep's directory.

    Raises:
        UserError: names the argument or the folder, and how to allow it.
    """
    remedy = f"if you trust what {sweep / 'sweep.json'} says, say trusted_packages=[{TRUST}]"
    if folder.resolve() != Path.cwd().resolve():
        raise UserError(f"{sweep} was started in {folder}: retry it there, or, {remedy}.")
    overrides = [word for word in argv if word not in _FLAGS]
    flags = [word for word in overrides if word.startswith("-")]
    try:
        parsed = [] if flags else OverridesParser.create().parse_overrides(overrides)
    except HydraException as error:
        raise UserError(f"{sweep / 'sweep.json'} holds a command that cannot be read: {error}") from error
    refused = [*flags, *(override.input_line for override in parsed if not _is_plain(override))]
    if refused:
        raise UserError(f"{sweep} was started with {refused[0]}, which is not checked; refused: {remedy}.")


def _is_plain(override: Override) -> bool:
    key, text = override.key_or_group, str(override.input_line).partition("=")[2]
    root = re.split(r"[./]", key)[0]
    if ".." in key or (override.package or "").startswith(("_", *_RESERVED)):
        return False
    if root == "hydra":
        return _is_plain_of_hydra(key, text)
    is_group = "/" in key or ("." not in key and (key != "initialize_from" or override.package is not None))
    return root not in _RESERVED and not (is_group and re.search(r"[/\\$]", text))


def _is_plain_of_hydra(key: str, text: str) -> bool:
    if key in ("hydra/launcher", "hydra/sweeper", "hydra.mode"):
        return bool(re.fullmatch(r"\w+", text))
    if key.startswith("hydra.launcher."):
        is_name = key.removeprefix("hydra.launcher.") in _NAMED and _NAMES.fullmatch(text)
        return bool(is_name or _NUMBERS.fullmatch(text)) or (key == _ADDRESS and text == "auto")
    parts = re.split(r"[./]", key)
    of_a_search = parts[:2] == ["hydra", "sweeper"] and parts[2] in _SEARCH_KEYS
    if any(part.startswith("_") for part in parts):  # `_target_`, `_args_` and so on, at any depth
        return False
    return of_a_search and not re.search(r"\$|hydra|_target_", text)
