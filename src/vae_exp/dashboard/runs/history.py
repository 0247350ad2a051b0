"""The logged values of a run in columns, 12 bytes a number."""

from array import array
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from vae_exp.dashboard.reader.records import Value
from vae_exp.metrics import with_current_metrics

_MAX_KEYS = 5_000
_MAX_NUMBERS = 20_000_000
_NOTHING: tuple["array[int]", "array[float]"] = array("i"), array("d")
NOT_FINITE = ("NaN", "Infinity", "-Infinity")

Numbers = npt.NDArray[np.float64]


class History:
    """Rows of a run in the order in which they were logged; a key may be missing in any of them."""

    def __init__(self) -> None:
        self.steps = array("q")
        self.non_numeric: dict[str, Value] = {}
        self.full = False
        self._columns: dict[str, tuple[array[int], array[float]]] = {}  # rows and numbers of a key
        self._count = 0

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def keys(self) -> list[str]:
        """Keys with numbers, in the order of their first appearance."""
        return list(self._columns)

    def append(self, step: int, values: Mapping[str, Value]) -> None:
        """Add a row; of texts and lists the last is stored, and numbers beyond the limits are not."""
        numbers = {}
        for key, value in with_current_metrics(values).items():
            if isinstance(value, int | float) or (isinstance(value, str) and value in NOT_FINITE):
                numbers[key] = float(value)
            elif value is not None:
                self.non_numeric[key] = value
        self.append_numbers(step, numbers)

    def append_numbers(self, step: int, numbers: Mapping[str, float]) -> None:
        """Add a row of numbers by the current names of metrics; those beyond the limits are not stored."""
        row = len(self.steps)
        if not -(2**62) < step < 2**62:
            return
        self.steps.append(step)
        for key, value in numbers.items():
            column = self._columns.get(key)
            if self._count >= _MAX_NUMBERS or (column is None and len(self._columns) >= _MAX_KEYS):
                self.full = True
                continue
            if column is None:
                column = self._columns[key] = array("i"), array("d")
            column[0].append(row)
            column[1].append(value)
            self._count += 1

    def series(self, key: str, against: str | None = None, before: int | None = None) -> tuple[Numbers, Numbers]:
        """Return the numbers of a key against those of another, or against the step.

        Args:
            key: The key; without numbers, both arrays are empty.
            against: The key of the x-axis; rows without it are left out. None takes the step.
            before: Rows from this step on are left out: another segment has them.

        Returns:
            Abscissas and values, `[N]` each, in the order of the rows.
        """
        rows, values = (np.array(part) for part in self._columns.get(key, _NOTHING))
        steps = np.array(self.steps)
        if before is not None:
            is_before = steps[rows] < before
            rows, values = rows[is_before], values[is_before]
        if against is None:
            return steps[rows].astype(np.float64), values
        other_rows, abscissas = (np.array(part) for part in self._columns.get(against, _NOTHING))
        _, here, there = np.intersect1d(rows, other_rows, assume_unique=True, return_indices=True)
        return abscissas[there], values[here]

    def rows(self, before: int | None = None) -> tuple[npt.NDArray[np.int64], dict[str, Numbers]]:
        """Return the steps `[N]`, and by key the numbers `[N]`, NaN in rows without one; before a step, or all."""
        steps = np.array(self.steps, dtype=np.int64)
        chosen = slice(None) if before is None else steps < before
        columns = {}
        for key, (rows, numbers) in self._columns.items():
            column = np.full(len(steps), np.nan)
            column[np.array(rows)] = numbers
            columns[key] = column[chosen]
        return steps[chosen], columns
