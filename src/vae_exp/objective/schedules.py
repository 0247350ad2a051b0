"""Schedules of a loss's scalars: β, a capacity, a penalty, over the steps or epochs of training."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from math import cos, pi

import torch
from torch import Tensor

from vae_exp.argument_checks import check_choice, check_int, check_number, or_else

UNITS = ("epoch", "step")


class Schedule(ABC):
    """A scalar that depends on how far training has come.

    Args:
        duration: Steps or epochs until it has reached its end.
        unit: `step`, or `epoch`: then it stays the same within an epoch.

    Raises:
        ValueError: if `duration` is not positive or the unit is unknown.
    """

    def __init__(self, duration: float, unit: str) -> None:
        check_number("duration", duration, above=0)
        self.duration = duration
        self.unit = check_choice("unit", unit, UNITS)

    def value_at(self, elapsed: float) -> float:
        """The scalar after so many steps or epochs; from `duration` on it stays as it is."""
        return self._at_share(min(max(elapsed / self.duration, 0.0), 1.0))

    def final_value(self) -> float:
        """The scalar that training ends with."""
        return self._at_share(1.0)

    @abstractmethod
    def _at_share(self, share: float) -> float:
        """The scalar when this share of `duration` has passed, from 0 to 1."""


class Linear(Schedule):
    """From `start` to `end` in a straight line, then constant (Bowman et al. 2016; Sønderby et al. 2016).

    Args:
        start: At the beginning.
        end: From `duration` on.
        duration: Steps or epochs in between.
        unit: What `duration` counts.
    """

    def __init__(self, start: float, end: float, duration: float, unit: str = "epoch") -> None:
        super().__init__(duration, unit)
        self.start, self.end = check_number("start", start), check_number("end", end)

    def _at_share(self, share: float) -> float:
        return self.start + (self.end - self.start) * share


class Cosine(Linear):
    """From `start` to `end` along half a cosine, flat at both ends, then constant; arguments as `Linear`."""

    def _at_share(self, share: float) -> float:
        return self.start + (self.end - self.start) * (1 - cos(pi * share)) / 2


class Cyclical(Linear):
    """`cycles` times from `start` to `end` in a straight line and on at `end` (Fu et al. 2019, equation 6).

    Args:
        start: At the beginning of each cycle.
        end: After the rise of each cycle, and from `duration` on.
        duration: Steps or epochs of all cycles together.
        unit: What `duration` counts.
        cycles: How many.
        rise: The share of a cycle in which the scalar rises.

    Raises:
        ValueError: if there is no cycle, if one has fewer than two epochs, or if `rise` is no share.
    """

    def __init__(
        self, start: float, end: float, duration: float, unit: str = "epoch", cycles: int = 4, rise: float = 0.5
    ) -> None:
        super().__init__(start, end, duration, unit)
        check_int("cycles", cycles)
        if unit == "epoch" and duration < 2 * cycles:
            raise ValueError(
                f"cycles={cycles} of duration={duration} epochs: a cycle of fewer than 2 epochs cannot rise; "
                f"use fewer cycles, or unit=step and a duration in steps."
            )
        check_number("rise", rise, above=0, maximum=1)
        self.cycles, self.rise = cycles, rise

    def _at_share(self, share: float) -> float:
        if share >= 1:
            return self.end
        within = share * self.cycles % 1.0
        return super()._at_share(min(within / self.rise, 1.0))


class ScheduledValue:
    """A scalar of a loss that follows a schedule; `value` is what it is now.

    Args:
        schedule: What it follows.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.value = torch.tensor(float(schedule.value_at(0)))

    def to(self, device: torch.device) -> None:
        """Move the value to a device; later changes are in place, so that a CUDA graph can read it."""
        self.value = self.value.to(device)

    def set(self, number: float) -> None:
        """Change the value in place."""
        self.value.fill_(number)


def as_scalar(
    key: str, value: float | Schedule, minimum: float | None = None, maximum: float | None = None
) -> float | ScheduledValue:
    """Check an argument of a loss that may be a number or a schedule.

    Args:
        key: The argument's name, for messages.
        value: A finite number, or a schedule.
        minimum: The smallest value it may take.
        maximum: The largest value it may take.

    Raises:
        ArgumentError: if it is neither, or if the number, or that at an end of the schedule, is out of range.
    """
    if isinstance(value, Schedule):
        for number in (value.value_at(0), value.final_value()):
            check_number(key, number, minimum, maximum)
        return ScheduledValue(value)
    return or_else("a schedule", lambda: check_number(key, value, minimum, maximum))


def value_of(scalar: float | ScheduledValue) -> float | Tensor:
    """The scalar as it is now."""
    return scalar.value if isinstance(scalar, ScheduledValue) else scalar


class LossSchedules:
    """All scheduled scalars of a loss, moved along by the trainer.

    Args:
        loss: Any loss; its attributes of type `ScheduledValue` follow their schedules.
        device: Where the loss is computed.

    Attributes:
        by_step: Whether a scalar follows steps.
    """

    def __init__(self, loss: object, device: torch.device) -> None:
        self._scalars = {name: value for name, value in vars(loss).items() if isinstance(value, ScheduledValue)}
        for scalar in self._scalars.values():
            scalar.to(device)
        self.by_step = any(scalar.schedule.unit == "step" for scalar in self._scalars.values())
        self._elapsed = dict.fromkeys(UNITS, 0)

    def begin_epoch(self, epochs: int, steps: int) -> None:
        """Set every scalar to its value after so many whole epochs and so many steps."""
        self._elapsed = {"epoch": epochs, "step": steps}
        for scalar in self._scalars.values():
            scalar.set(scalar.schedule.value_at(self._elapsed[scalar.schedule.unit]))

    def begin_step(self, steps: int) -> None:
        """Set the scalars that follow steps to their values after so many."""
        if not self.by_step:
            return
        self._elapsed["step"] = steps
        for scalar in self._scalars.values():
            if scalar.schedule.unit == "step":
                scalar.set(scalar.schedule.value_at(steps))

    def all_finished(self) -> bool:
        """Whether no scalar changes any more; one that goes up and down has its final value before its end too."""
        schedules = [scalar.schedule for scalar in self._scalars.values()]
        return all(self._elapsed[schedule.unit] >= schedule.duration for schedule in schedules)

    def values(self) -> dict[str, float]:
        """Every scalar by its name, as it is now."""
        return {name: float(scalar.value) for name, scalar in self._scalars.items()}

    @contextmanager
    def at_end(self) -> Iterator[None]:
        """Set every scalar to its final value for the length of a block, so that epochs can be compared."""
        before = {name: float(scalar.value) for name, scalar in self._scalars.items()}
        for scalar in self._scalars.values():
            scalar.set(scalar.schedule.final_value())
        try:
            yield
        finally:
            for name, scalar in self._scalars.items():
                scalar.set(before[name])
