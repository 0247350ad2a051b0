"""Stopping when the monitored metric no longer improves, and knowing the best so far."""

from math import inf, isfinite


class Best:
    """The lowest value of a metric so far.

    Args:
        patience: Epochs without improvement after which to stop; None never stops.
        min_delta: How much lower a value must be to count as an improvement for stopping.
    """

    def __init__(self, patience: int | None, min_delta: float) -> None:
        self.value = inf
        self.epoch = 0
        self._patience = patience
        self._min_delta = min_delta
        self._reference = inf
        self._stale = 0

    def update(self, value: float, epoch: int) -> bool:
        """Take the value of an epoch; whether it is the best so far."""
        if value < self._reference - self._min_delta:
            self._reference, self._stale = value, 0
        else:
            self._stale += 1
        if not (isfinite(value) and value < self.value):
            return False
        self.value, self.epoch = value, epoch
        return True

    @property
    def exhausted(self) -> bool:
        """Whether patience has run out."""
        return self._patience is not None and self._stale >= self._patience
