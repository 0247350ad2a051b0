"""A table of the runs, or of what they have logged, as Parquet, CSV or `.npz`."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vae_exp.dashboard.runs.run_tables import Columns, RunTables, last_attempts, read_store
from vae_exp.dashboard.web.redaction import Redactor
from vae_exp.errors import quantity
from vae_exp.storage.atomic_io import absolute_path
from vae_exp.storage.column_files import ColumnFiles


def export_table(roots: Sequence[Path], path: Path, *, private: bool, history: bool) -> str:
    """Write the runs below some folders as a table.

    Args:
        roots: Where runs are searched.
        path: The file; its suffix is one of `column_files.SUFFIXES`.
        private: Whether to leave in absolute paths and the names of machines and users.
        history: Whether a row is a logged step; otherwise it is a run, with its config and its summary.

    Returns:
        A message that says what was written.

    Raises:
        UserError: if there are no runs, or the file cannot be written.
    """
    store = read_store(roots)
    runs = last_attempts(store)
    tables = RunTables(runs)
    columns = tables.history if history else tables.table
    if not private:
        columns = _redact(columns, Redactor(runs))
    for note in store.notes:
        print(note, file=sys.stderr)
    with ColumnFiles("--export", absolute_path("--export", str(path))) as files:
        files.append(columns)
        files.save()
    counts = {"run": len(runs), "row": len(columns["run_id"]), "column": len(columns)}
    return f"{', '.join(quantity(count, noun) for noun, count in counts.items())}, written to {path}"


def _redact(columns: Columns, redactor: Redactor) -> Columns:
    redacted = {}
    for name, values in zip(redactor.redact_keys(columns), columns.values(), strict=True):
        is_text = values.dtype.kind == "U"
        redacted[name] = np.array(redactor.redact(values.tolist()), dtype=np.str_) if is_text else values
    return redacted
