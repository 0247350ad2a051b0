"""Looking at what the device has scored without making it wait."""

from typing import Protocol

import torch
from torch import Tensor

_STEPS_BETWEEN_LOOKS = 32


class LossMonitor(Protocol):
    """Sees the sums of the latest step that are known to the host."""

    def look(self, sums: Tensor, rows: Tensor, size: int) -> Tensor | None:
        """Called after every step.

        Args:
            sums: What the step scored, `[3]`, on the device.
            rows: What all steps of the epoch scored, `[steps, 3]`, on the device.
            size: How many images the step had.

        Returns:
            The terms of a recent step per image, on the CPU, not finite if any step so far was not; None if
            there is nothing new to be seen.
        """
        ...


class SyncLossMonitor:
    """For the CPU, where every step can be seen at once."""

    def look(self, sums: Tensor, rows: Tensor, size: int) -> Tensor | None:
        """Those of this very step."""
        return sums / size


class AsyncLossMonitor:
    """For accelerators: every few steps a copy is ordered, and read once it has arrived.

    Args:
        device: Where steps run.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seen = torch.zeros(3, pin_memory=True)
        self._arrival = torch.cuda.Event()
        self._under_way = False
        self._countdown = _STEPS_BETWEEN_LOOKS

    def look(self, sums: Tensor, rows: Tensor, size: int) -> Tensor | None:
        """What was ordered some steps ago, if it has arrived."""
        if self._under_way:
            if not self._arrival.query():
                return None
            self._under_way = False
            return self._seen.clone()
        self._countdown -= 1
        if self._countdown == 0:
            self._countdown = _STEPS_BETWEEN_LOOKS
            # adding 0 × the whole record makes a NaN or an infinity of any step visible
            self._seen.copy_(sums / size + 0 * rows.sum(dim=0), non_blocking=True)
            self._arrival.record(torch.cuda.current_stream(self._device))  # not that of the current device
            self._under_way = True
        return None


class NullLossMonitor:
    """For devices without events: the end of the epoch must do."""

    def look(self, sums: Tensor, rows: Tensor, size: int) -> Tensor | None:
        """Nothing."""
        return None


def make_loss_monitor(device: torch.device) -> LossMonitor:
    """The watch that suits a device."""
    if device.type == "cpu":
        return SyncLossMonitor()
    return AsyncLossMonitor(device) if device.type == "cuda" else NullLossMonitor()
