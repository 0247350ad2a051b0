"""An exponential moving average of the weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class ExponentialMovingAverage:
    """(1 − d) Σₜ dᵀ⁻ᵗ aₜ / (1 − dᵀ) over the weights a₁, …, a_T after every step.

    The temporal averaging of Kingma & Ba 2015, section 7.2, with its correction of the bias: the initial weights
    have no part in it, so that it is of use from the first step on.
    Only device work: it can be part of a CUDA graph.

    Args:
        module: Whose parameters are averaged; buffers are not.
        decay: d, from 0 (no memory) up to 1 (excluded).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._decay = decay
        self._names = [name for name, _ in module.named_parameters()]
        self._weights: list[Tensor] = [weight.detach() for weight in module.parameters()]
        self._average = [weight.clone() for weight in self._weights]
        device = self._weights[0].device
        dtype = torch.float32 if device.type == "mps" else torch.float64  # which Apple's GPUs lack
        self._steps = torch.zeros((), dtype=dtype, device=device)

    def update(self) -> None:
        """Add the weights after a step to the average."""
        self._steps += 1
        share = (1 - self._decay) / (1 - self._decay**self._steps)
        torch._foreach_mul_(self._average, (1 - share).float())
        torch._foreach_add_(self._average, torch._foreach_mul(self._weights, share.float()))

    @contextmanager
    def average_parameters(self) -> Iterator[None]:
        """Give the module its average weights within a block."""
        trained = [weight.clone() for weight in self._weights]
        torch._foreach_copy_(self._weights, self._average)
        try:
            yield
        finally:
            torch._foreach_copy_(self._weights, trained)

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by the names of the parameters."""
        return dict(zip(self._names, self._average, strict=True))

    def load_state_dict(self, state: Mapping[str, Tensor], steps: int) -> None:
        """Load averages over that many steps."""
        torch._foreach_copy_(self._average, [state[name] for name in self._names])
        self._steps.fill_(steps)


@torch.no_grad()
def load_average(module: nn.Module, average: Mapping[str, Tensor]) -> None:
    """Load averaged weights, parameter by parameter, because one may have several names."""
    parameters = dict(module.named_parameters())
    for name, weight in average.items():
        parameters[name].copy_(weight)
