"""Linear layers of several models as one batched product."""

from typing import Any

import torch
from torch import Tensor, nn

from vae_exp.distributions.leading_axis import remember_signature


def use_batched_products(model: nn.Module) -> None:
    """Let the linear layers of a model be one operation each under `torch.vmap`, which would take five."""
    for module in model.modules():
        if type(module) is nn.Linear and module.bias is not None:
            module.__class__ = StackedLinear


class StackedLinear(nn.Linear):
    """A linear layer whose weights `torch.vmap` stacks."""

    def forward(self, inputs: Tensor) -> Tensor:
        """`[..., inputs]` → `[..., outputs]`."""
        return _Linear.apply(inputs, self.weight, self.bias)  # type: ignore[no-any-return]


@remember_signature
class _Linear(torch.autograd.Function):
    """x Wᵀ + b, whose batched form under `torch.vmap` is one product."""

    @staticmethod
    def forward(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        outputs: Tensor = nn.functional.linear(inputs, weight, bias)
        return outputs

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int, ...], inputs: Tensor, weight: Tensor, bias: Tensor
    ) -> tuple[Tensor, int]:
        inputs = inputs.movedim(in_dims[0], 0)
        rows = inputs.flatten(1, -2)
        outputs: Tensor = _BatchedLinear.apply(rows, weight.movedim(in_dims[1], 0), bias.movedim(in_dims[2], 0))
        return outputs.unflatten(1, inputs.shape[1:-1]), 0


class _BatchedLinear(torch.autograd.Function):
    """x Wᵀ + b for `[members, rows, inputs]` and `[members, outputs, inputs]`."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        return torch.baddbmm(bias.unsqueeze(1), inputs, weight.mT)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        inputs, weight = ctx.saved_tensors
        by_inputs, by_weight, by_bias = ctx.needs_input_grad
        return (
            torch.bmm(gradient, weight) if by_inputs else None,
            torch.bmm(gradient.mT, inputs) if by_weight else None,
            gradient.sum(dim=1) if by_bias else None,
        )
