"""Bursts in turn, so that other load of the machine affects all candidates alike."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median
from typing import Protocol

import numpy as np

_ENOUGH_TO_JUDGE = 0.25


class Candidate(Protocol):
    """Something that trains, or does a part of it, for some steps at a time."""

    def run_steps(self, count: int) -> int:
        """Run `count` steps; the number of images they took."""
        ...


@dataclass(frozen=True)
class Burst:
    """What a burst took.

    Args:
        seconds: Wall time, the device's work included.
        images: Images of all its steps.
    """

    seconds: float
    images: int

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.images / self.seconds


def time_burst(candidate: Candidate, steps: int, synchronize: Callable[[], None]) -> Burst:
    """One burst; the device is waited for at its ends alone."""
    synchronize()
    start = time.perf_counter()
    images = candidate.run_steps(steps)
    synchronize()
    return Burst(time.perf_counter() - start, images)


def calibrated_steps(candidate: Candidate, seconds: float, synchronize: Callable[[], None]) -> int:
    """How many steps take about that long; at least one."""
    steps = 1
    while True:
        taken = time_burst(candidate, steps, synchronize).seconds
        if taken >= _ENOUGH_TO_JUDGE * seconds:
            return max(1, ceil(steps * seconds / taken))
        steps *= 2


def interleave(
    candidates: Mapping[str, Candidate],
    steps: Mapping[str, int],
    rounds: int,
    synchronize: Callable[[], None],
) -> dict[str, list[Burst]]:
    """One burst of each candidate a round; every round begins with another one.

    Args:
        candidates: By name.
        steps: Of a burst, by name.
        rounds: How many bursts each runs.
        synchronize: Waits for the device.

    Returns:
        The bursts by name, in the order of the rounds.
    """
    names = list(candidates)
    bursts: dict[str, list[Burst]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            bursts[name].append(time_burst(candidates[name], steps[name], synchronize))
    return bursts


def median_rate(bursts: Sequence[Burst]) -> float:
    """Images per second, the median over the rounds."""
    return median(burst.rate for burst in bursts)


def ratios(bursts: Sequence[Burst], others: Sequence[Burst]) -> list[float]:
    """How many times faster than the others, round by round."""
    return [mine.rate / other.rate for mine, other in zip(bursts, others, strict=True)]


def spread(values: Sequence[float]) -> dict[str, float]:
    """The `median`, and `low` and `high`, the quartiles; a single value is all three."""
    low, middle, high = np.percentile(values, [25, 50, 75]).tolist()
    return {"median": middle, "low": low, "high": high}
