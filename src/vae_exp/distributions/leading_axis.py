"""Functions with a gradient of their own to which a leading axis more makes no difference."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class LastAxisFunction(torch.autograd.Function):
    """Works along the last axis, so that `torch.vmap` may put the axis that it adds in front of all others.

    All arguments are tensors that broadcast against one another, and all are kept for the gradient.
    """

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Any) -> None:
        """Keep the arguments."""
        ctx.save_for_backward(*inputs)

    @classmethod
    def vmap(cls, info: Any, in_dims: Sequence[int | None], *arguments: Tensor) -> tuple[Any, Any]:
        """The function of arguments some of which have one axis more."""
        rank = max(tensor.dim() - (axis is not None) for tensor, axis in zip(arguments, in_dims, strict=True))
        aligned = [
            tensor if axis is None else _in_front(tensor, axis, rank)
            for tensor, axis in zip(arguments, in_dims, strict=True)
        ]
        outputs = cls.apply(*aligned)
        return outputs, 0 if isinstance(outputs, Tensor) else (0,) * len(outputs)


def _in_front(tensor: Tensor, axis: int, rank: int) -> Tensor:
    """The tensor with an axis moved to the front, and axes of length one after it up to `rank` others."""
    moved = tensor.movedim(axis, 0)
    return moved.reshape(len(moved), *[1] * (rank + 1 - moved.dim()), *moved.shape[1:])
