"""The logged values of a run, 8 bytes a number."""

from array import array
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vae_exp.dashboard.reader.records import Value
from vae_exp.metrics import with_current_metrics

_MAX_KEYS = 5_000
_MAX_NUMBERS = 20_000_000
_NOT_FINITE = ("NaN", "Infinity", "-Infinity")

Numbers = npt.NDArray[np.float64]


def is_number(value: Value) -> bool:
    """Whether a value is a number or a truth value, or W&B's word for a number that JSON does not have."""
    return isinstance(value, int | float) or (isinstance(value, str) and value in _NOT_FINITE)


class Block(NamedTuple):
    """The rows that have the same keys: their indices among all rows, and their numbers row by row."""

    rows: "array[int]"
    numbers: "array[float]"

    def table(self) -> Numbers:
        """Return a copy of the numbers `[rows, keys]`."""
        return np.array(self.numbers).reshape(len(self.rows), -1)


class History:
    """Rows of a run in the order in which they were logged; a key may be missing in any of them.

    Args:
        steps: Of the rows.
        blocks: The numbers, by the keys of their rows.
        non_numeric: The last texts and lists, by key.
        full: Whether there were more numbers than are stored.
    """

    def __init__(
        self,
        steps: "array[int] | None" = None,
        blocks: dict[tuple[str, ...], Block] | None = None,
        non_numeric: dict[str, Value] | None = None,
        full: bool = False,
    ) -> None:
        self.steps: array[int] = steps or array("q")
        self.blocks = blocks or {}
        self.non_numeric = non_numeric or {}
        self.full = full
        self._keys = dict.fromkeys(chain.from_iterable(self.blocks))
        self._count = sum(len(block.numbers) for block in self.blocks.values())

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def keys(self) -> list[str]:
        """Keys with numbers, in the order of their first appearance."""
        return list(self._keys)

    def append(self, step: int, values: Mapping[str, Value]) -> None:
        """Add a row; of texts and lists the last is stored, and numbers beyond the limits are not."""
        numbers = {}
        for key, value in with_current_metrics(values).items():
            if is_number(value):
                numbers[key] = float(value)
            elif value is not None:
                self.non_numeric[key] = value
        self.append_numbers(step, tuple(numbers), tuple(numbers.values()))

    def append_numbers(self, step: int, keys: tuple[str, ...], numbers: Sequence[float]) -> None:
        """Add a row of numbers by the current names of metrics; numbers beyond the limits are not stored."""
        if not -(2**62) < step < 2**62:
            return
        self.steps.append(step)
        block = self.blocks.get(keys)
        if block is None or self._count + len(keys) > _MAX_NUMBERS:
            keys, numbers = self._limit(keys, numbers)
            block = self.blocks.setdefault(keys, Block(array("i"), array("d"))) if keys else None
        if block is not None:
            block.rows.append(len(self.steps) - 1)
            block.numbers.extend(numbers)
            self._count += len(keys)

    def _limit(self, keys: tuple[str, ...], numbers: Sequence[float]) -> tuple[tuple[str, ...], list[float]]:
        """Return what may be stored of a row, and note its keys."""
        stored: dict[str, float] = {}
        for key, number in zip(keys, numbers, strict=True):
            is_over = key not in self._keys and len(self._keys) >= _MAX_KEYS
            if is_over or self._count + len(stored) >= _MAX_NUMBERS:
                self.full = True
            else:
                self._keys[key] = None
                stored[key] = number
        return tuple(stored), list(stored.values())

    def series(self, key: str, against: str | None = None, before: int | None = None) -> tuple[Numbers, Numbers]:
        """Return the numbers of a key against those of another, or against the step.

        Args:
            key: The key; without numbers, both arrays are empty.
            against: The key of the x-axis; rows without it are left out. None takes the step.
            before: Rows from this step on are left out: another segment has them.

        Returns:
            Abscissas and values, `[N]` each, in the order of the rows.
        """
        steps = np.array(self.steps, dtype=np.int64)
        parts = [(np.empty(0, dtype=np.int32), np.empty((2, 0)))]
        for keys, block in self.blocks.items():
            if key in keys and (against is None or against in keys):
                rows, table = np.array(block.rows), block.table()
                x = steps[rows] if against is None else table[:, keys.index(against)]
                parts.append((rows, np.stack([x, table[:, keys.index(key)]])))
        rows, curve = (
            np.concatenate([rows for rows, _ in parts]),
            np.concatenate([part for _, part in parts], axis=1),
        )
        order = rows.argsort()
        if before is not None:
            order = order[steps[rows[order]] < before]
        x, y = curve[:, order]
        return x, y

    def has(self, key: str, step: int) -> bool:
        """Whether a row of this step has a number of this key."""
        rows = np.flatnonzero(np.array(self.steps, dtype=np.int64) == step)
        return any(key in keys and bool(np.isin(rows, block.rows).any()) for keys, block in self.blocks.items())

    def all_series(self, against: str) -> dict[str, tuple[Numbers, Numbers]]:
        """Return by key what `series` returns, from one copy of all numbers."""
        parts: dict[str, list[Numbers]] = {}
        for keys, block in self.blocks.items():
            if against in keys:
                rows, table = np.array(block.rows), block.table()
                x = table[:, keys.index(against)]
                for index, key in enumerate(keys):
                    parts.setdefault(key, []).append(np.stack([rows, x, table[:, index]]))
        curves = {}
        for key, pieces in parts.items():
            rows, x, y = np.concatenate(pieces, axis=1)
            order = rows.argsort()
            curves[key] = x[order], y[order]
        return curves

    def rows(self, before: int | None = None) -> tuple[npt.NDArray[np.int64], dict[str, Numbers]]:
        """Return the steps `[N]`, and by key the numbers `[N]`, NaN in rows without one; before a step, or all."""
        steps = np.array(self.steps, dtype=np.int64)
        chosen = slice(None) if before is None else steps < before
        columns = {key: np.full(len(steps), np.nan) for key in self._keys}
        for keys, block in self.blocks.items():
            rows, table = np.array(block.rows), block.table()
            for index, key in enumerate(keys):
                columns[key][rows] = table[:, index]
        return steps[chosen], {key: column[chosen] for key, column in columns.items()}
