"""Autograd functions along the last axis, which `torch.vmap` computes for all members of a stack at once."""

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
    """A block in which `torch.vmap` adds an axis to the arguments of `LastAxisFunction.compute`."""
    token = _vmapped.set(True)
    try:
        yield
    finally:
        _vmapped.reset(token)


class LastAxisFunction(torch.autograd.Function):
    """Works along the last axis; all arguments are tensors that broadcast against one another."""

    @classmethod
    def compute(cls, *arguments: Tensor) -> Any:
        """Apply the function, also where `torch.vmap` adds an axis to the arguments."""
        return _Vmapped.apply(cls, *arguments) if _vmapped.get() else cls.apply(*arguments)


class _Vmapped(torch.autograd.Function):
    """A function within `vmapped()`, where torch calls `vmap`; the call is slower than that of the function."""

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
                tensor if axis is None else _move_to_front(tensor, axis, rank)
                for tensor, axis in zip(arguments, axes, strict=True)
            )
        )
        return outputs, 0 if isinstance(outputs, Tensor) else (0,) * len(outputs)


def remember_signature(function: type[torch.autograd.Function]) -> type[torch.autograd.Function]:
    """Store the signature of `forward`, which torch asks for at every call of a function with `setup_context`."""
    function.forward.__signature__ = inspect.signature(function.forward)  # type: ignore[attr-defined]
    return function


remember_signature(_Vmapped)


def _move_to_front(tensor: Tensor, axis: int, rank: int) -> Tensor:
    """Move an axis to the front, and insert axes of length one after it until there are `rank` others."""
    moved = tensor.movedim(axis, 0)
    return moved.reshape(len(moved), *[1] * (rank + 1 - moved.dim()), *moved.shape[1:])
