"""An exponential moving average of the weights, kept beside those that are trained."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """ā ← d·ā + (1 − d)·a after every step (Polyak & Juditsky 1992, in its exponential form), from a itself on.

    Only device work: it can be part of a CUDA graph.

    Args:
        module: Whose parameters are averaged; buffers are not.
        decay: d, from 0 (no memory) up to 1 (excluded).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._decay = decay
        self._names = [name for name, _ in module.named_parameters()]
        self._weights: list[Tensor] = [each.detach() for each in module.parameters()]
        self._average = [each.clone() for each in self._weights]

    def update(self) -> None:
        """Take the weights after a step into the average."""
        torch._foreach_lerp_(self._average, self._weights, 1 - self._decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """For the length of a block the module has its average weights."""
        trained = [each.clone() for each in self._weights]
        torch._foreach_copy_(self._weights, self._average)
        try:
            yield
        finally:
            torch._foreach_copy_(self._weights, trained)

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by the names of the parameters."""
        return dict(zip(self._names, self._average, strict=True))

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from these averages."""
        torch._foreach_copy_(self._average, [state[name] for name in self._names])
