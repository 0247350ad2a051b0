"""All trained weights as one parameter, which an optimizer updates in one kernel."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import (
    ASGD,
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    NAdam,
    Optimizer,
    RAdam,
    RMSprop,
    Rprop,
)

_ALIGNMENT = 16  # numbers; products of matrices at other addresses are slower on a GPU
_ELEMENTWISE = {ASGD, SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, NAdam, RAdam, RMSprop, Rprop}


class FlatParameter(nn.Parameter):
    """One parameter that holds several, each at a multiple of 64 bytes; they become views of it.

    Args:
        parts: Parameters of one type on one device.
    """

    parts: list[nn.Parameter]
    zeros: Tensor

    def __new__(cls, parts: Sequence[nn.Parameter]) -> "FlatParameter":  # noqa: D102
        zeros = parts[0].new_zeros(_ALIGNMENT)
        flat: FlatParameter = super().__new__(cls, _join([part.detach() for part in parts], zeros))
        flat.parts, flat.zeros = list(parts), zeros
        for part, view in zip(parts, flat.split_like_parts(flat.detach()), strict=True):
            part.data = view
        return flat

    def split_like_parts(self, values: Tensor) -> list[Tensor]:
        """Views of a tensor of this parameter's size, one for each part, of its shape."""
        pieces = values.split([part.numel() + _padding(part) for part in self.parts])
        return [piece[: part.numel()].view(part.shape) for piece, part in zip(pieces, self.parts, strict=True)]

    @torch.no_grad()
    def gather_gradients(self) -> None:
        """Take the gradients of the parts as its own."""
        gradients = [torch.zeros_like(part) if part.grad is None else part.grad for part in self.parts]
        if self.grad is None:
            self.grad = torch.zeros_like(self)
        _join(gradients, self.zeros, out=self.grad)

    @torch.no_grad()
    def step(self, optimizer: Optimizer) -> None:
        """One step of the optimizer on the gathered gradients; a part without a gradient stays as it is."""
        untouched = [(part, part.clone()) for part in self.parts if part.grad is None]
        optimizer.step()
        for part, value in untouched:
            part.copy_(value)


def _join(values: Sequence[Tensor], zeros: Tensor, out: Tensor | None = None) -> Tensor:
    """The values one after another, each padded with zeros."""
    pieces = [piece for value in values for piece in (value.reshape(-1), zeros[: _padding(value)])]
    return torch.cat(pieces, out=out)


def _padding(value: Tensor) -> int:
    return -value.numel() % _ALIGNMENT


def can_be_flat(optimizer: Optimizer, parameters: Sequence[nn.Parameter]) -> bool:
    """Whether the parameters are better off as one: of one type, on a GPU, and every number treated alone.

    On a GPU one kernel over all fills it, where torch's fused kernels leave most of it idle for a small net. On a
    CPU gathering the gradients costs more than that saves.
    """
    is_alike = len({parameter.dtype for parameter in parameters}) == 1
    return type(optimizer) in _ELEMENTWISE and is_alike and parameters[0].device.type == "cuda"


def flat_parameter(optimizer: Optimizer) -> FlatParameter | None:
    """The flat parameter of an optimizer; None where it has its parameters one by one."""
    first = optimizer.param_groups[0]["params"][0]
    return first if isinstance(first, FlatParameter) else None


def optimizer_state(optimizer: Optimizer) -> dict[str, Any]:
    """The optimizer's state by single parameters, whether or not it has a flat one."""
    state, flat = optimizer.state_dict(), flat_parameter(optimizer)
    if flat is None:
        return state
    entries: dict[int, dict[str, Any]] = {}
    for name, value in state["state"].get(0, {}).items():
        values = flat.split_like_parts(value) if _is_elementwise(value) else [deepcopy(value) for _ in flat.parts]
        for index, entry in enumerate(values):
            entries.setdefault(index, {})[name] = entry
    [group] = state["param_groups"]
    return {"state": entries, "param_groups": [{**group, "params": list(range(len(flat.parts)))}]}


def flatten_state(state: Mapping[str, Any], flat: FlatParameter) -> dict[str, Any]:
    """The state by single parameters as that of one flat parameter.

    Raises:
        ValueError: if it is of other parameters.
    """
    [group] = state["param_groups"]
    if len(group["params"]) != len(flat.parts):
        raise ValueError(f"the optimizer's state is of {len(group['params'])} weights, not {len(flat.parts)}")
    entries = state["state"]
    whole: dict[str, Any] = {}
    for name, value in next(iter(entries.values()), {}).items():
        if not _is_elementwise(value):
            whole[name] = value
            continue
        values = [
            entries[index][name] if index in entries else torch.zeros_like(part)
            for index, part in enumerate(flat.parts)
        ]
        for entry, part in zip(values, flat.parts, strict=True):
            if entry.shape != part.shape:
                raise ValueError(
                    f"the optimizer's {name} is {list(entry.shape)} for a weight of {list(part.shape)}"
                )
        whole[name] = _join([entry.to(flat.device) for entry in values], flat.zeros)
    return {"state": {0: whole} if whole else {}, "param_groups": [{**group, "params": [0]}]}


def _is_elementwise(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0
