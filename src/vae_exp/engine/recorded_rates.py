"""Learning rates that a CUDA graph reads from the device, so that a schedule needs no new recording."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer


class RecordedRates:
    """The learning rates of an optimiser as a recording reads them; everybody else sees numbers.

    Torch's Adam and AdamW can read theirs from a tensor; other optimisers have none here.

    Args:
        optimizer: Whose groups have a learning rate each.
        device: Where the recording runs.
    """

    def __init__(self, optimizer: Optimizer, device: torch.device) -> None:
        readable = isinstance(optimizer, Adam)  # AdamW is one
        self._groups = [each for each in optimizer.param_groups if readable and isinstance(each["lr"], float)]
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
        """For the length of a block, in which steps are recorded, the groups hold the places."""
        numbers: list[float | Tensor] = [each["lr"] for each in self._groups]
        for group, place in zip(self._groups, self._places, strict=True):
            group["lr"] = place
        try:
            yield
        finally:
            for group, number in zip(self._groups, numbers, strict=True):
                group["lr"] = number
