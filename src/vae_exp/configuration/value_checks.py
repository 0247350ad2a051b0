"""Checks of single values of the config; each names the key, the value and what would be right."""

import os
import re
from collections.abc import Mapping
from math import isfinite
from typing import Any

from vae_exp import argument_checks
from vae_exp.errors import UserError

_SCHEDULER_COUNTS = {"step_size": 1, "T_max": 1, "patience": 0, "cooldown": 0}  # and their minima
_SCHEDULER_NUMBERS = ("gamma", "eta_min", "threshold")


def check_min(key: str, value: float, least: float) -> None:
    """At least {0}."""
    if not isfinite(value) or value < least:
        raise UserError(f"{key}={value} must be at least {least}.")


def check_range(key: str, value: int, least: int, most: int) -> None:
    """From {0} to {1}."""
    if not least <= value <= most:
        raise UserError(f"{key}={value} must be from {least} to {most}.")


def check_positive(key: str, value: float) -> None:
    """Greater than 0."""
    if not isfinite(value) or value <= 0:
        raise UserError(f"{key}={value} must be greater than 0.")


def check_fraction(key: str, value: float) -> None:
    """At least 0 and below 1."""
    if not 0 <= value < 1:
        raise UserError(f"{key}={value} must be at least 0 and below 1; null keeps none.")


def check_seed(key: str, seed: int) -> None:
    """From 0 to 2^63 − 1."""
    check_min(key, seed, 0)
    if seed >= 2**63:
        raise UserError(f"{key}={seed} must be below 2**63.")


def check_auto_or_count(key: str, value: Any) -> None:
    """`auto` or a whole number of at least 1."""
    argument_checks.check_auto_or_int(key, value)


def check_choice(key: str, value: Any, *allowed: str | bool) -> None:
    """{choices}."""
    argument_checks.check_choice(key, value, allowed)


def check_subset(key: str, values: list[str], *allowed: str) -> None:
    """A list of {choices}."""
    if not values or not set(values) <= set(allowed):
        raise UserError(
            f"{key}={values} must list some of {', '.join(allowed)}; null takes what the device knows."
        )


def check_widths(key: str, widths: list[int]) -> None:
    """Widths of at least 1; `[]` is a linear model."""
    if any(type(width) is not int or width < 1 for width in widths):
        raise UserError(f"{key}={widths} must list widths of at least 1; [] is a linear model.")


def check_width_lists(key: str, lists: list[list[int]]) -> None:
    """Lists of widths of at least 1."""
    if not lists or min(sum(lists, [1])) < 1:
        raise UserError(
            f"{key}={lists} must list lists of widths of at least 1, such as [[500],[400,200]]; "
            f"null takes model.hidden_dims."
        )


def check_batch_sizes(key: str, sizes: list[int]) -> None:
    """Sizes of at least 1."""
    if not sizes or min(sizes) < 1:
        raise UserError(f"{key}={sizes} must list sizes of at least 1, such as [100,1000].")


def check_stack_sizes(key: str, sizes: list[int]) -> None:
    """Numbers of nets of at least 1; `[]` is none."""
    if any(size < 1 for size in sizes):
        raise UserError(f"{key}={sizes} must list numbers of nets of at least 1, such as [1,64]; [] is none.")


def check_image_shape(key: str, shape: list[int]) -> None:
    """`[channels, height, width]`."""
    if len(shape) != 3 or min(shape) < 1:
        raise UserError(f"{key}={shape} must be [channels, height, width], each at least 1.")


def check_run(key: str, directory: str) -> None:
    """Not empty."""
    if not directory.strip():
        remedy = ", or leave resume out for a new run" if key == "resume" else ""
        raise UserError(f"{key}= is empty; name a run directory{remedy}.")


def check_runs(key: str, directories: str | list[str]) -> None:
    """A run directory, a sweep, or a list of them."""
    names = [directories] if isinstance(directories, str) else directories
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"{key}={directories} must be a run directory, a sweep, or a list of them.")
    for name in names:
        check_run(key, name)


def check_tracker_mode(key: str, mode: str) -> None:
    """`offline`, `online` or `none`."""
    source = " (from WANDB_MODE)" if mode == os.environ.get("WANDB_MODE") else ""
    if mode not in ("offline", "online", "none"):
        raise UserError(f"{key}={mode}{source} must be offline, online or none.")


def is_sweep_name(name: str) -> bool:
    """Whether a name may stand in `sweep.name`."""
    return bool(re.fullmatch(r"\w[\w.-]*", str(name)))


def check_sweep_name(key: str, name: str) -> None:
    """Letters, digits, `.`, `-` and `_`; the first is a letter, a digit or `_`."""
    if not is_sweep_name(name):
        raise UserError(f"{key}={name} must begin with a letter or digit and hold only those, '.', '-' and '_'.")


def check_target(key: str, node: Mapping[str, Any]) -> None:
    """A mapping with `_target_`."""
    if not isinstance(node.get("_target_"), str):
        raise UserError(f"{key}._target_ is missing; it names the class that is instantiated.")


def check_optimizer(key: str, node: Mapping[str, Any]) -> None:
    """A mapping with `_target_`."""
    check_target(key, node)
    if "lr" in node:
        argument_checks.check_number(f"{key}.lr", node["lr"], above=0)
    for name in ("weight_decay", "momentum"):
        if name in node:
            argument_checks.check_number(f"{key}.{name}", node[name], minimum=0)


def check_scheduler(key: str, node: Mapping[str, Any]) -> None:
    """A mapping without values that torch fails with after an epoch, or takes for something else."""
    for name in _SCHEDULER_COUNTS.keys() & node.keys():
        argument_checks.check_int(f"{key}.{name}", node[name], _SCHEDULER_COUNTS[name])
    for name in _SCHEDULER_NUMBERS:
        if name in node:
            argument_checks.check_number(f"{key}.{name}", node[name], minimum=0)
    if "factor" in node:
        argument_checks.check_number(f"{key}.factor", node["factor"], minimum=0, below=1)
    if "min_lr" in node:
        rates = node["min_lr"]  # one, or one for each group of parameters
        for rate in rates if isinstance(rates, list) else [rates]:
            argument_checks.check_number(f"{key}.min_lr", rate, minimum=0)
    if "milestones" in node:
        epochs = node["milestones"]
        if not isinstance(epochs, list) or not all(argument_checks.is_int(epoch, 1) for epoch in epochs):
            raise argument_checks.refusal(f"{key}.milestones", epochs, "a list of whole numbers of at least 1")
