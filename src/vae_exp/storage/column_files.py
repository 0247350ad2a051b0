"""Tables of arrays, collected in a temporary file a column and written as `.npz`, Parquet or CSV."""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
import numpy.typing as npt

from vae_exp.errors import UserError
from vae_exp.storage.npz_stream import write_npz
from vae_exp.storage.output_files import output_errors, temporary_folder, write_to_user_path

SUFFIXES = (".npz", ".parquet", ".csv")
_ROWS_AT_ONCE = 4096
Array = npt.NDArray[Any]


class ColumnFiles:
    """Columns of equal length in a temporary folder, so that any number of rows takes constant memory.

    Args:
        key: What names the output, for messages.
        output: The file; its suffix is one of `SUFFIXES`. The temporary folder is beside it.

    Raises:
        UserError: here and in the methods, if the disk cannot be written.
    """

    def __init__(self, key: str, output: Path) -> None:
        self._output = output
        self._errors = partial(output_errors, key, output)
        self._resources = ExitStack()  # closes every file, then removes the folder, whatever fails
        with self._errors():
            output.parent.mkdir(parents=True, exist_ok=True)
            self._folder = self._resources.enter_context(temporary_folder(output.parent))
        self._files: dict[str, IO[bytes]] = {}
        self._kinds: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._errors():
            self._resources.__exit__(None, None, None)

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def append(self, columns: Mapping[str, Array]) -> None:
        """Add rows to some columns: arrays `[rows, ...]`, each time of the same type and trailing shape."""
        with self._errors():
            for name, values in columns.items():
                if name not in self._files:
                    path = self._folder / str(len(self._files))
                    self._files[name] = self._resources.enter_context(path.open("w+b"))
                    self._kinds[name] = values.dtype, values.shape[1:]
                self._files[name].write(np.ascontiguousarray(values).tobytes())

    def read(self, name: str) -> Array:
        """A column, mapped into memory: `[rows, ...]`."""
        file, (dtype, shape) = self._files[name], self._kinds[name]
        with self._errors():
            file.flush()
        rows = Path(file.name).stat().st_size // (dtype.itemsize * int(np.prod(shape, dtype=np.int64)))
        return np.memmap(file.name, dtype, "r", shape=(rows, *shape)) if rows else np.zeros((0, *shape), dtype)

    def save(self, order: Array | None = None) -> None:
        """Write all columns to the output.

        Args:
            order: Positions of the rows, first to last; None for the order in which they were added.
        """
        columns = {name: self.read(name) for name in self._files}
        rows = order if order is not None else np.arange(len(next(iter(columns.values()))))
        parts = [rows[start : start + _ROWS_AT_ONCE] for start in range(0, len(rows), _ROWS_AT_ONCE)] or [rows]
        write = {".npz": _write_npz, ".parquet": _write_parquet, ".csv": _write_csv}[self._output.suffix]
        with self._errors():
            write_to_user_path(self._output, lambda file: write(file, columns, parts))


def check_suffix(key: str, path: Path, suffixes: Sequence[str] = SUFFIXES) -> None:
    """Refuse a name that says no format, and Parquet without pyarrow.

    Args:
        key: What names the file.
        path: The file.
        suffixes: Of the formats that would be right.

    Raises:
        UserError: names the key and what would be right.
    """
    if path.suffix not in suffixes:
        raise UserError(f"{key}={path} must end in {', '.join(suffixes[:-1])} or {suffixes[-1]}.")
    if path.suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise UserError(
                f"{key}={path} needs pyarrow: pip install pyarrow, or name a .npz or .csv file."
            ) from error


def _write_npz(file: IO[bytes], columns: Mapping[str, Array], parts: list[Array]) -> None:
    rows = sum(map(len, parts))
    shapes = {name: (rows, *values.shape[1:]) for name, values in columns.items()}
    write_npz(
        file,
        {
            name: (shapes[name], values.dtype.str, map(values.__getitem__, parts))
            for name, values in columns.items()
        },
    )


def _write_parquet(file: IO[bytes], columns: Mapping[str, Array], parts: list[Array]) -> None:
    import pyarrow
    from pyarrow import parquet

    writer = None
    for part in parts:
        table = pyarrow.table(dict(_flat_columns(columns, part)))
        writer = writer or parquet.ParquetWriter(file, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def _write_csv(file: IO[bytes], columns: Mapping[str, Array], parts: list[Array]) -> None:
    text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
    writer = csv.writer(text)
    for number, part in enumerate(parts):
        flat = dict(_flat_columns(columns, part))
        if number == 0:
            writer.writerow(map(_without_formula, flat))
        cells = (
            map(_without_formula, values.tolist()) if values.dtype.kind == "U" else values.tolist()
            for values in flat.values()
        )
        writer.writerows(zip(*cells, strict=True))
    text.detach()


def _without_formula(text: str) -> str:
    """A text with an apostrophe before it where a spreadsheet would evaluate it; signed numbers stay."""
    try:
        float(text)
    except ValueError:
        return f"'{text}" if re.match(r"\s*[=+@-]", text) else text
    return text


def _flat_columns(columns: Mapping[str, Array], part: Array) -> Iterator[tuple[str, Array]]:
    """The rows of a part by column; an axis more becomes `mean_0`, `mean_1`, …; text is made valid UTF-8."""
    for name, values in columns.items():
        if values.dtype.kind == "U":
            texts = [text.encode("utf-8", "backslashreplace").decode() for text in values[part].tolist()]
            yield name, np.array(texts, dtype=np.str_)
        elif values.ndim == 1:
            yield name, values[part]
        else:
            flat = values[part].reshape(len(part), -1)
            yield from ((f"{name}_{index}", flat[:, index]) for index in range(flat.shape[1]))
