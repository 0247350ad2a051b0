"""Tables written column by column, read back by numpy, pyarrow and csv."""

import csv
import resource
from pathlib import Path

import numpy as np
import pytest

from vae_exp.errors import UserError
from vae_exp.storage.column_files import ColumnFiles, check_suffix

ROWS = 9001


def columns() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        "index": np.arange(ROWS),
        "mean": generator.normal(size=(ROWS, 3)).astype(np.float32),
        "code": generator.integers(9, size=(ROWS, 2, 2)),
        "nll": generator.normal(size=ROWS),
    }


def write(folder: Path, suffix: str, order: np.ndarray | None = None) -> Path:
    path = folder / f"table{suffix}"
    with ColumnFiles("output", path) as files:
        for start in range(0, ROWS, 1000):
            files.append({name: values[start : start + 1000] for name, values in columns().items()})
        files.save(order)
    assert [entry.name for entry in folder.iterdir()] == [path.name]
    return path


@pytest.mark.parametrize("order", [None, np.arange(ROWS)[::-1]])
def test_npz_holds_every_column_in_order(tmp_path: Path, order: np.ndarray | None):
    with np.load(write(tmp_path, ".npz", order)) as archive:
        assert set(archive) == set(columns())
        for name, values in columns().items():
            np.testing.assert_array_equal(archive[name], values if order is None else values[order])
            assert archive[name].dtype == values.dtype


def test_csv_and_parquet_have_a_column_for_each_number(tmp_path: Path):
    parquet = pytest.importorskip("pyarrow.parquet")
    with write(tmp_path, ".csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    names = ["index", "mean_0", "mean_1", "mean_2", *(f"code_{index}" for index in range(4)), "nll"]
    assert header == names
    table = np.array(rows, dtype=float)
    expected = columns()
    flat = np.concatenate([expected[name].reshape(ROWS, -1) for name in expected], axis=1)
    np.testing.assert_array_equal(table, flat)
    (tmp_path / "table.csv").unlink()
    stored = parquet.read_table(write(tmp_path, ".parquet"))
    assert stored.column_names == names
    np.testing.assert_array_equal(np.stack([stored[name].to_numpy() for name in names], axis=1), flat)


def test_a_full_disk_is_an_error_and_leaves_no_file(tmp_path: Path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with (
            pytest.raises(UserError, match="cannot be written: File too large; free some space"),
            ColumnFiles("output", tmp_path / "a.csv") as files,
        ):
            files.append(columns())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_a_csv_file_has_no_formulas(tmp_path: Path):
    texts = ["=HYPERLINK(1)", " @SUM(1)", "-1.5", "+a", "plain", ""]
    with ColumnFiles("output", tmp_path / "a.csv") as files:
        files.append({"=1": np.array(texts)})
        files.save()
    with (tmp_path / "a.csv").open(newline="") as file:
        cells = [cell for [cell] in csv.reader(file)]
    assert cells == ["'=1", "'=HYPERLINK(1)", "' @SUM(1)", "-1.5", "'+a", "plain", ""]


def test_other_suffixes_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"output=.*codes\.txt must end in \.npz, \.parquet or \.csv"):
        check_suffix("output", tmp_path / "codes.txt")
