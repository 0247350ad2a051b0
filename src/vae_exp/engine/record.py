"""What the steps of an epoch scored, kept on the device until the host asks."""

from math import isfinite

import torch
from torch import Tensor

TERMS = ("loss", "distortion", "rate")


class EpochLossBuffer:
    """A row per step: the sums over its batch of loss, distortion and rate, in nats.

    Args:
        steps: How many steps an epoch has.
        device: Where the rows lie.
    """

    def __init__(self, steps: int, device: torch.device) -> None:
        self.rows = torch.zeros(steps, len(TERMS), device=device)
        self._next = torch.zeros(1, dtype=torch.int64, device=device)

    def begin(self, rows: Tensor | None = None) -> None:
        """Start an epoch, or go on with one whose first steps scored `rows`."""
        self.rows.zero_()
        done = 0 if rows is None else len(rows)
        if rows is not None:
            self.rows[:done].copy_(rows)
        self._next.fill_(done)

    def add(self, sums: Tensor) -> None:
        """Keep the sums of a step, `[3]`; device work alone, so that a CUDA graph can hold it."""
        self.rows.index_copy_(0, self._next, sums.unsqueeze(0))
        self._next += 1

    def totals(self) -> Tensor:
        """The sums over all steps so far: `[3]`, summed in float64 on the CPU."""
        return self.rows.cpu().double().sum(dim=0)

    def first_non_finite(self) -> tuple[int, str, float] | None:
        """The first step with a term that is not finite, counted from 0, that term and its value.

        It waits for the device. The loss itself is named only where distortion and rate are finite.
        """
        for step, row in enumerate(self.rows.tolist()):
            for term, value in sorted(zip(TERMS, row, strict=True), key=lambda pair: pair[0] == "loss"):
                if not isfinite(value):
                    return step, term, value
        return None
