"""Functions with a gradient of their own to which a leading axis more makes no difference."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

_vmapped: ContextVar[bool] = ContextVar("vmapped", default=False)


@contextmanager
def vmapped() -> Iterator[None]:
    """A block in which `torch.vmap` adds an axis to the arguments of `LastAxisFunction.of`."""
    token = _vmapped.set(True)
    try:
        yield
    finally:
        _vmapped.reset(token)


class LastAxisFunction(torch.autograd.Function):
    """Works along the last axis; all arguments are tensors that broadcast against one another."""

    @classmethod
    def of(cls, *arguments: Tensor) -> Any:
        """The function of these arguments, also where `torch.vmap` adds an axis to them."""
        return _Vmapped.apply(cls, *arguments) if _vmapped.get() else cls.apply(*arguments)


class _Vmapped(torch.autograd.Function):
    """A function of which torch takes the batched form alone; the form without a batch has a slower call."""

    @staticmethod
    def forward(function: type[LastAxisFunction], *arguments: Tensor) -> Any:
        return function.apply(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def vmap(
        info: Any, in_dims: Sequence[int | None], function: type[LastAxisFunction], *arguments: Tensor
    ) -> tuple[Any, Any]:
        axes = in_dims[1:]
        rank = max(tensor.dim() - (axis is not None) for tensor, axis in zip(arguments, axes, strict=True))
        outputs = function.apply(
            *(
                tensor if axis is None else _in_front(tensor, axis, rank)
                for tensor, axis in zip(arguments, axes, strict=True)
            )
        )
        return outputs, 0 if isinstance(outputs, Tensor) else (0,) * len(outputs)


def remember_signature(function: type[torch.autograd.Function]) -> type[torch.autograd.Function]:
    """Let torch, which asks for the signature of `forward` at every call, find it at once."""
    function.forward.__signature__ = inspect.signature(function.forward)  # type: ignore[attr-defined]
    return function


remember_signature(_Vmapped)


def _in_front(tensor: Tensor, axis: int, rank: int) -> Tensor:
    """The tensor with an axis moved to the front, and axes of length one after it up to `rank` others."""
    moved = tensor.movedim(axis, 0)
    return moved.reshape(len(moved), *[1] * (rank + 1 - moved.dim()), *moved.shape[1:])
