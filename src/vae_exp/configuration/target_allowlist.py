"""What a stored config may instantiate: a run directory from another person is data, not code.

The check has two halves. By name, before anything is imported: the target of each slot must lie in the
packages that hold classes of that slot's kind, or in a package that the caller trusts. Then by type: what the
name leads to must be a class of that kind. Anything else in the config that could name code is refused.
"""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.utils import get_object
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from vae_exp.errors import UserError
from vae_exp.storage.atomic_io import read_yaml

# A reference to another node of the config, or to an environment variable with a plain default.
_HARMLESS = re.compile(r"\$\{(?:\.*\w[\w.\[\]]*|oc\.env:\w+(?:,[^${}]*)?)\}")
_SPECIAL_KEYS = {"_partial_", "_args_", "_convert_", "_recursive_", "()"}


@dataclass(frozen=True)
class TargetKind:
    """What belongs into a slot.

    Args:
        name: How messages call it.
        packages: Where its classes lie without the caller's trust.
        base: The class that it must extend; None where a protocol is enough.
    """

    name: str
    packages: tuple[str, ...]
    base: type | None = None


MODULE = TargetKind(
    "a torch.nn.Module",
    ("vae_exp.model", "torch.nn", "torchvision.models", "torchvision.ops"),
    nn.Module,
)
LOSS = TargetKind("a loss", ("vae_exp.objective",))
SCHEDULE = TargetKind("a schedule", ("vae_exp.objective.schedules",))
SOURCE = TargetKind("a data source", ("vae_exp.data",))
OPTIMIZER = TargetKind("a torch.optim.Optimizer", ("torch.optim",), Optimizer)
SCHEDULER = TargetKind("a learning rate scheduler", ("torch.optim.lr_scheduler",), LRScheduler)
EVALUATOR = TargetKind("an evaluator", ("vae_exp.evaluation",))

_SLOTS: dict[tuple[str, ...], TargetKind] = {
    ("loss",): LOSS,
    ("loss", "*"): SCHEDULE,
    ("data", "source"): SOURCE,
    ("optimizer",): OPTIMIZER,
    ("scheduler",): SCHEDULER,
    ("evaluator", "*"): EVALUATOR,
}


def check_targets(config: Mapping[str, Any], trust: Sequence[str]) -> None:
    """Refuse a stored config that names code it has no business to name.

    Args:
        config: The stored config as plain containers, all interpolations resolved.
        trust: Packages whose classes the caller is willing to instantiate.

    Raises:
        UserError: names the key, the target, and the way to trust it. Until then nothing of any target
            has been imported.
    """
    targets = list(_targets(config, ()))
    for key, target in targets:
        _check_target_name(key, target, trust)
    for key, target in targets:
        _check_target_class(key, target, trust)


def untrusted_packages(config: Mapping[str, Any]) -> list[str]:
    """The packages of the user's own classes in a config, which opening the run later will ask about."""
    targets = [value for key, value in _entries(config, ()) if key[-1] == "_target_" and isinstance(value, str)]
    packages = dict.fromkeys(target.split(".")[0] for target in targets)
    return [package for package in packages if package not in ("vae_exp", "torch", "torchvision")]


def check_plain_yaml(path: Path) -> None:
    """Refuse a stored YAML file that is more than a tree of plain values, before anything of it is resolved.

    Refused are aliases (a few lines of them unfold without bound) and callables of a logging configuration.

    Raises:
        UserError: names the file and the place.
    """
    if not path.exists():
        return
    for key, _ in _entries(read_yaml(path), ()):
        if key[-1] == "()":
            raise UserError(f"{path} names a callable at {'.'.join(key)}; refused.")


def check_no_resolvers(path: Path) -> None:
    """Refuse a stored config whose interpolations call a resolver: any that the process has registered would run.

    `${oc.env:NAME}` alone is allowed, it reads an environment variable.

    Raises:
        UserError: names the key and its value.
    """
    for call in resolver_calls(read_yaml(path)):
        raise UserError(f"{path} has {call}, which calls a resolver; refused.")


def resolver_calls(config: Any) -> Iterator[str]:
    """`key=value` of every interpolation in a tree of plain containers that calls a resolver but `oc.env`."""
    for key, value in _entries(config, ()):
        if any(isinstance(text, str) and "${" in _HARMLESS.sub("", text) for text in (key[-1], value)):
            yield f"{'.'.join(key)}={value}"


def _targets(node: Any, key: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for path, value in _entries(node, key):
        if path[-1] == "_target_":
            yield path[:-1], value
        elif path[-1] in _SPECIAL_KEYS:
            raise UserError(f"the stored config has {'.'.join(path)}={value}; refused: only _target_ is used.")
        elif isinstance(value, str) and "${" in value:
            raise UserError(
                f"the stored config has {'.'.join(path)}={value}, an interpolation in disguise; refused."
            )


def _entries(node: Any, key: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every key of a tree of mappings and lists, with its value."""
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for name, value in items:
        path = (*key, str(name))
        yield path, value
        yield from _entries(value, path)


def _kind(key: tuple[str, ...]) -> TargetKind:
    if key[:1] == ("model",):
        return MODULE
    for slot, kind in _SLOTS.items():
        if len(slot) == len(key) and all(a in ("*", b) for a, b in zip(slot, key, strict=True)):
            return kind
    raise UserError(
        f"the stored config has a _target_ at {'.'.join(key) or 'its root'}, where none belongs; refused."
    )


def _check_target_name(key: tuple[str, ...], target: Any, trust: Sequence[str]) -> None:
    kind = _kind(key)
    if target is None:
        return
    name = ".".join((*key, "_target_"))
    if not isinstance(target, str) or not all(part.isidentifier() for part in target.split(".")):
        raise UserError(f"the stored config has {name}={target}, which is not a dotted name; refused.")
    if _in_packages(target, kind.packages) or _in_packages(target, trust):
        return
    package = target.split(".")[0]
    remedy = (
        "no such name belongs there"
        if package in {"torch", "torchvision", "vae_exp", *sys.stdlib_module_names}
        else f"if you trust the package, say trusted_packages=[{package}]"
    )
    raise UserError(
        f"the stored config has {name}={target}, which is not {kind.name} "
        f"from {' or '.join(kind.packages)}; refused: {remedy}."
    )


def _check_target_class(key: tuple[str, ...], target: Any, trust: Sequence[str]) -> None:
    if target is None:
        return
    kind = _kind(key)
    target_type = target_class(target)
    is_allowed = isinstance(target_type, type) and _in_packages(
        f"{target_type.__module__}.{target_type.__qualname__}", (*kind.packages, *trust)
    )
    if not is_allowed or (kind.base is not None and not issubclass(target_type, kind.base)):
        raise UserError(
            f"the stored config has {'.'.join(key)}._target_={target}, which is not {kind.name}; refused."
        )


def target_class(target: str) -> Any:
    """The object of a dotted name that has been checked, located as it will be instantiated."""
    try:
        return get_object(target)
    except Exception as error:  # importing a module may raise anything
        raise UserError(f"{target} cannot be imported: {error}") from error


def _in_packages(name: str, packages: Sequence[str]) -> bool:
    return any(name.startswith(f"{package}.") for package in packages)
