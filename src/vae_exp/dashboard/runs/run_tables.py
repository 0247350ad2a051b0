"""Offline W&B runs as tables: what each run is, its config, its summary and its history, in columns of arrays."""

import json
import warnings
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vae_exp.dashboard.reader.records import Value, split_images
from vae_exp.dashboard.runs.discovery import check_roots
from vae_exp.dashboard.runs.history import is_number
from vae_exp.dashboard.runs.run import Run
from vae_exp.dashboard.runs.store import RunStore
from vae_exp.errors import UserError

Columns = dict[str, npt.NDArray[Any]]


class RunTables:
    """Tables of runs, ready for `pandas.DataFrame` and `pyarrow.table`; all have the column `run_id`.

    A column is an array of numbers, texts or truth values. A missing number is NaN, a missing text is empty;
    lists, and values of several types in one column, are JSON texts.

    Args:
        runs: The runs, in the order of the rows.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = runs

    def __len__(self) -> int:
        return len(self._runs)

    @cached_property
    def info(self) -> Columns:
        """Identity and state, one row per run; `started` in seconds since 1970, `directory` the run directory."""
        return self._table(
            {
                "name": run.info.name,
                "group": run.info.group,
                "project": run.info.project,
                "job_type": run.info.job_type,
                "state": run.state,
                "started": run.started,
                "directory": run.directory,
                "data_loss": run.data_loss,
                "notes": run.note.text,
            }
            for run in self._runs
        )

    @cached_property
    def config(self) -> Columns:
        """The config, one row per run; keys of nested groups are joined by dots, such as `model.latent_dim`."""
        return self._table(run.config for run in self._runs)

    @cached_property
    def summary(self) -> Columns:
        """The last values, those of the best epoch (`best/…`) and test scores (`test/…`), one row per run."""
        return self._table(split_images(run.summary)[0] for run in self._runs)

    @cached_property
    def history(self) -> Columns:
        """The numbers that the runs have logged, one row per logged step; `_step` is W&B's count."""
        parts = [(run.key, *run.rows()) for run in self._runs]
        lengths = [len(steps) for _, steps, _ in parts]
        columns: Columns = {
            "run_id": np.repeat(_texts([key for key, _, _ in parts]), lengths),
            "_step": np.concatenate([steps for _, steps, _ in parts]),
        }
        for name in dict.fromkeys(chain.from_iterable(values for _, _, values in parts)):
            columns.setdefault(
                name, np.concatenate([values.get(name, np.full(len(steps), np.nan)) for _, steps, values in parts])
            )
        return columns

    @property
    def table(self) -> Columns:
        """What each run is, with its config as `config.…` and its summary as `summary.…`, one row per run."""
        config, summary = ({**table} for table in (self.config, self.summary))
        del config["run_id"], summary["run_id"]
        named = {f"config.{name}": column for name, column in config.items()}
        return self.info | named | {f"summary.{name}": column for name, column in summary.items()}

    def _table(self, rows: Iterable[dict[str, Value]]) -> Columns:
        complete = [{**row, "run_id": run.key} for run, row in zip(self._runs, rows, strict=True)]
        names = dict.fromkeys(["run_id", *chain.from_iterable(complete)])
        return {name: _column([row.get(name) for row in complete]) for name in names}


def read_runs(roots: str | PathLike[str] | Iterable[str | PathLike[str]]) -> RunTables:
    """Read the offline W&B runs below some folders, the first started first; of attempts at a job the last one.

    Args:
        roots: A folder or several, searched at any depth: W&B roots, sweeps, run directories; or `.wandb` files.

    Raises:
        UserError: if one does not exist, or there are no runs.
    """
    paths = [Path(root) for root in ([roots] if isinstance(roots, str | PathLike) else roots)]
    store = read_store(paths)
    for note in store.notes:
        warnings.warn(note, stacklevel=2)
    return RunTables(last_attempts(store))


def read_store(roots: Sequence[Path], may_be_empty: bool = False) -> RunStore:
    """Read everything that the runs below some folders have written; `Raises` as of `read_runs`."""
    check_roots(roots)
    store = RunStore(roots)
    store.read_all()
    if not store.runs and not may_be_empty:
        raise UserError(f"there are no .wandb files below {', '.join(map(str, roots))}.")
    return store


def last_attempts(store: RunStore) -> list[Run]:
    """The runs without those that were run again from their start, the first started first."""
    return sorted(
        (run for run in store.runs.values() if not run.is_replaced), key=lambda run: (run.started, run.key)
    )


def _column(values: Sequence[Value]) -> npt.NDArray[Any]:
    """An array of numbers or truth values if all values are, of texts otherwise; None is a missing value."""
    present = [value for value in values if value is not None]
    if present and all(isinstance(value, bool) for value in values):
        return np.array(values)
    if present and all(is_number(value) and not isinstance(value, bool) for value in present):
        is_whole = len(present) == len(values) and all(
            isinstance(value, int) and abs(value) < 2**63 for value in values
        )
        numbers = [np.nan if value is None else value for value in values]
        return np.array(numbers, dtype=np.int64 if is_whole else np.float64)
    return _texts(
        ["" if value is None else value if isinstance(value, str) else json.dumps(value) for value in values]
    )


def _texts(values: Sequence[str]) -> npt.NDArray[Any]:
    """Texts that every encoding can write: lone surrogates become question marks."""
    return np.array([value.encode("utf-8", "replace").decode() for value in values], dtype=np.str_)
