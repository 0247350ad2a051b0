"""Learning rates that a CUDA graph reads from the device, so that a schedule needs no new recording."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.optim import SGD, Adagrad, Adam, Optimizer, RMSprop


class RecordedRates:
    """The learning rates of an optimiser as its steps read them, in float32; everything else sees numbers.

    Args:
        optimizer: Whose groups have a learning rate each.
        device: Where the steps run.
    """

    def __init__(self, optimizer: Optimizer, device: torch.device) -> None:
        self._groups = [each for each in optimizer.param_groups if _reads_tensor(optimizer, each)]
        self._numbers = [each["lr"] for each in self._groups]
        self._places = [torch.tensor(each, device=device) for each in self._numbers]

    def covers(self, group: dict[str, Any]) -> bool:
        """Whether a group's learning rate is among them."""
        return any(each is group for each in self._groups)

    def follow(self) -> None:
        """Take over what a schedule has changed; nothing waits for the device."""
        for place, group in enumerate(self._groups):
            if group["lr"] != self._numbers[place]:
                self._numbers[place] = group["lr"]
                self._places[place].fill_(group["lr"])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """For the length of a block, in which a step runs or is recorded, the groups hold the tensors."""
        for group, place in zip(self._groups, self._places, strict=True):
            group["lr"] = place
        try:
            yield
        finally:
            for group, number in zip(self._groups, self._numbers, strict=True):
                group["lr"] = number


def _reads_tensor(optimizer: Optimizer, group: dict[str, Any]) -> bool:
    """Whether the kernels of this group read a learning rate from the device without a wait of the host."""
    if not isinstance(group["lr"], float):
        return False
    if isinstance(optimizer, SGD | Adagrad):
        return bool(group.get("fused"))
    if isinstance(optimizer, RMSprop):  # its foreach kernels, which are torch's default on CUDA
        return group.get("foreach") is not False
    return isinstance(optimizer, Adam)  # AdamW is one
