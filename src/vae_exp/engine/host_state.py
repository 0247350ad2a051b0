"""What a training step changes on the host, where a recording of device work does not see it."""

import random
from collections.abc import Iterator, Mapping
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_OPAQUE = (nn.Module, torch.Tensor, torch.Generator, type, FunctionType, MethodType, ModuleType)
_DEPTH = 6  # of objects inside objects


class HostStateSnapshot:
    """Plain values that the code of a step can reach on the host, and the random states of the process.

    Args:
        module: What a step scores with; its modules and the plain objects they hold are looked at.
        optimizer: Its options and its state are looked at.
    """

    def __init__(self, module: object, optimizer: Optimizer) -> None:
        self._module = getattr(module, "_orig_mod", module)  # not what the compiler keeps beside it
        self._optimizer = optimizer

    def seen(self) -> dict[str, Any]:
        """All of it by name, in a form that can be compared."""
        return {**_of_modules(self._module), **_of_optimizer(self._optimizer), **_of_process()}


def first_change(before: Mapping[str, Any], after: Mapping[str, Any]) -> str | None:
    """The name of something that two looks at the host have found different; None if nothing is."""
    names = [*before, *(name for name in after if name not in before)]
    absent = object()
    return next((name for name in names if before.get(name, absent) != after.get(name, absent)), None)


def _of_modules(module: object) -> dict[str, Any]:
    if not isinstance(module, nn.Module):
        return dict(_inside("", module, _DEPTH))
    torchs = vars(nn.Module())
    found: dict[str, Any] = {}
    for place, each in module.named_modules():
        for name, value in vars(each).items():
            if name not in torchs:
                found |= dict(_inside(f"{place}.{name}" if place else name, value, _DEPTH))
    return found


def _of_optimizer(optimizer: Optimizer) -> dict[str, Any]:
    groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    state = [optimizer.state[key] for key in optimizer.state]
    return dict([*_inside("optimizer.param_groups", groups, _DEPTH), *_inside("optimizer.state", state, _DEPTH)])


def _of_process() -> dict[str, Any]:
    kind, keys, position, *rest = np.random.get_state(legacy=True)
    return {
        "the random state of Python": random.getstate(),
        "the random state of numpy": (kind, np.asarray(keys).tobytes(), position, rest),
        "the random state of torch on the CPU": torch.get_rng_state().numpy().tobytes(),
    }


def _inside(name: str, value: Any, depth: int, met: set[int] | None = None) -> Iterator[tuple[str, Any]]:
    """The plain values of an object and of what it holds, by name; tensors and modules are left out."""
    met = set() if met is None else met
    if isinstance(value, _PLAIN):
        yield name, repr(value)  # NaN equals itself then
        return
    if id(value) in met or not depth:
        return
    met.add(id(value))
    if isinstance(value, Mapping | list | tuple):
        yield f"the length of {name}", len(value)
    for place, entry in _entries(value):
        yield from _inside(f"{name}{place}" if name else place.lstrip("."), entry, depth - 1, met)


def _entries(value: Any) -> list[tuple[str, Any]]:
    """What an object holds, by how it is reached."""
    if isinstance(value, Mapping):
        return [(f"[{key!r}]", entry) for key, entry in value.items()]
    if isinstance(value, list | tuple):
        return [(f"[{place}]", entry) for place, entry in enumerate(value)]
    if isinstance(value, _OPAQUE) or not hasattr(value, "__dict__"):
        return []
    return [(f".{name}", entry) for name, entry in vars(value).items()]
