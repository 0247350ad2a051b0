"""The best epoch so far, and when to stop for lack of a better one."""

from collections.abc import Mapping
from math import inf, isfinite
from typing import Any


class EarlyStopping:
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
        """Add the value of an epoch; whether it is the best so far."""
        if value < self._reference - self._min_delta:
            self._reference, self._stale = value, 0
        else:
            self._stale += 1
        if not (isfinite(value) and value < self.value):
            return False
        self.value, self.epoch = value, epoch
        return True

    @property
    def should_stop(self) -> bool:
        """Whether patience has run out."""
        return self._patience is not None and self._stale >= self._patience

    def state_dict(self) -> dict[str, Any]:
        """Plain values that `load_state_dict` takes."""
        return {"value": self.value, "epoch": self.epoch, "reference": self._reference, "stale": self._stale}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.value, self.epoch = state["value"], state["epoch"]
        self._reference, self._stale = state["reference"], state["stale"]
