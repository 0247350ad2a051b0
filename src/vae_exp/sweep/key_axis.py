"""How the values of a swept key lie along an axis: numbers where they belong, words one after the other."""

from collections.abc import Sequence
from math import inf, log
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from vae_exp.sweep.aggregate import Group, in_order

_FEW = 8  # values that are each named on the axis
_SHORT = 8  # characters of a number that somebody has written
_WIDE = 8.0  # from this ratio of greatest to least on, an axis is logarithmic
_DECADES = 100.0  # from this ratio on, a logarithmic axis is marked at powers of ten alone
_APART = 0.04  # of an axis: nearer names would cover each other
_LONGEST = 60  # characters of all names together that stand upright below an axis


class KeyAxis:
    """The axis of one key.

    Args:
        groups: Whose values it shows.
        key: A config key that all of them have.
    """

    def __init__(self, groups: Sequence[Group], key: str) -> None:
        self.key = key
        self.values = sorted({group.keys[key] for group in groups}, key=in_order)
        numbers = [_number(value) for value in self.values]
        self.is_numeric = None not in numbers
        self.is_few = len(self.values) <= _FEW and not (
            self.is_numeric and any(len(value) > _SHORT for value in self.values)
        )
        self._numbers = [number for number in numbers if number is not None] if self.is_numeric else []
        self.is_log = self.is_numeric and max(self._numbers) >= _WIDE * min(self._numbers) > 0

    def position(self, value: str) -> float:
        """Where a value stands, in the units of the axis."""
        return self._numbers[self.values.index(value)] if self.is_numeric else float(self.values.index(value))

    def height(self, value: str) -> float:
        """Where a value stands on an axis from 0 to 1: few of them at equal distances, many by their size."""
        if len(self.values) == 1:
            return 0.5
        if self.is_few or not self.is_numeric:
            return self.values.index(value) / (len(self.values) - 1)
        return self._share(value)

    def marks(self) -> list[tuple[float, str]]:
        """Heights and what to write there."""
        if self.is_few or not self.is_numeric:
            named = self.values if self.is_few else self.values[:: -(-len(self.values) // _FEW)]
            return [(self.height(value), value) for value in named]
        ends = min(self._numbers), max(self._numbers)
        between = np.geomspace(*ends, 5) if self.is_log else np.linspace(*ends, 5)
        return [(place / 4, f"{number:.3g}") for place, number in enumerate(between)]

    def lay_along(self, axes: Axes, side: Literal["x", "y"]) -> None:
        """Make this the horizontal (x) or the vertical (y) axis of a figure."""
        axis = axes.xaxis if side == "x" else axes.yaxis
        axes.set(**{f"{side}label": self.key})
        if self.is_log:
            axes.set(**{f"{side}scale": "log"})
        if self.is_few or not self.is_numeric:
            places = [self.position(value) for value in self.values]
            axes.set(**{f"{side}ticks": places, f"{side}ticklabels": self._apart()})
        elif self.is_log:
            wide = max(self._numbers) >= _DECADES * min(self._numbers)
            axis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
            axis.set_major_formatter("{x:g}")
        if self.is_few or not self.is_numeric or self.is_log:
            axis.set_minor_locator(NullLocator())
        if not self.is_numeric:
            axes.set(**{f"{side}lim": (-0.5, len(self.values) - 0.5)})
            if side == "x":
                turn_long(axes, self.values)

    def _apart(self) -> list[str]:
        """The names of the values, without those that would stand on the one before."""
        names: list[str] = []
        last = -1.0
        for value in self.values:
            share = self._share(value) if self.is_numeric else inf
            names.append(value if share - last >= _APART else "")
            last = share if names[-1] and self.is_numeric else last
        return names

    def _share(self, value: str) -> float:
        """Which part of the way from the least number to the greatest a value has gone."""
        least, greatest = self._scaled(min(self._numbers)), self._scaled(max(self._numbers))
        return (self._scaled(self.position(value)) - least) / ((greatest - least) or 1.0)

    def _scaled(self, number: float) -> float:
        return log(number) if self.is_log else number


def turn_long(axes: Axes, names: Sequence[str]) -> None:
    """Turn the names below an axis which would run into each other."""
    if sum(len(name) for name in names) > _LONGEST:
        axes.tick_params(axis="x", labelrotation=90)


def _number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None
