"""What a user names as output: refused before the work where it cannot be written, and no part stays behind."""

import errno
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from vae_exp.errors import UserError
from vae_exp.storage.column_files import ColumnFiles
from vae_exp.storage.output_files import check_output_file, temporary_folder, write_to_user_path

DIE_IN_A_FOLDER = """
import os, signal, sys
from pathlib import Path
from vae_exp.storage.output_files import temporary_folder
with temporary_folder(Path(sys.argv[1])) as folder:
    (folder / "column").write_bytes(b"0" * 100)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def limit_file_size():
    """A limit of 20,000 bytes a file, which fails as a full disk does: at the flush of a buffer."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_folder_of_a_killed_process_is_removed_by_the_next_and_that_of_a_living_one_stays(tmp_path: Path):
    killed = subprocess.run([sys.executable, "-c", DIE_IN_A_FOLDER, str(tmp_path)], check=False)
    assert killed.returncode == -9
    [leftover] = tmp_path.iterdir()
    with temporary_folder(tmp_path) as first:
        assert not leftover.exists()
        with temporary_folder(tmp_path) as second:
            assert {first, second} == set(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())


def test_a_folder_that_another_process_removes_before_its_lock_is_replaced(tmp_path: Path, monkeypatch):
    made: list[Path] = []

    class LateLock(FileLock):
        def acquire(self, *arguments: Any, **options: Any) -> Any:
            made.append(Path(self.lock_file).parent)
            proxy = super().acquire(*arguments, **options)
            if len(made) == 1:
                shutil.rmtree(made[0])
            return proxy

    monkeypatch.setattr("vae_exp.storage.output_files.FileLock", LateLock)
    with temporary_folder(tmp_path) as folder:
        assert folder.is_dir()
        assert (folder != made[0], list(tmp_path.iterdir())) == (True, [folder])
    assert not list(tmp_path.iterdir())


def test_an_error_in_reading_is_not_one_of_the_output(tmp_path: Path):
    with pytest.raises(FileNotFoundError), ColumnFiles("output", tmp_path / "a.csv"):
        (tmp_path / "image.png").read_bytes()


def test_the_temporary_folder_goes_though_a_buffer_cannot_be_written(tmp_path: Path, limit_file_size):
    output = tmp_path / "a.csv"
    message = f"output={output} cannot be written: .*File too large"
    with pytest.raises(UserError, match=message), ColumnFiles("output", output) as columns:  # noqa: PT012
        columns.append({"a": np.zeros(2400), "b": np.zeros(2400)})
        columns.append({"a": np.zeros(200), "b": np.zeros(200)})
    assert not list(tmp_path.iterdir())


def test_the_error_of_a_full_disk_names_the_output(tmp_path: Path, limit_file_size):
    path = tmp_path / "table.csv"
    with pytest.raises(OSError, match="File too large") as caught:
        write_to_user_path(path, lambda file: file.write(bytes(30_000)))
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
    assert not list(tmp_path.iterdir())


def test_a_link_to_itself_is_replaced(tmp_path: Path):
    path = tmp_path / "loop.npz"
    path.symlink_to(path)
    with pytest.raises(UserError, match="exists; overwrite=true"):
        check_output_file(path, overwrite=False)
    check_output_file(path, overwrite=True)
    write_to_user_path(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_output_that_cannot_be_a_file_is_refused(overwrite: bool, tmp_path: Path):
    with pytest.raises(UserError, match=r"output=.* is a folder; name a file in it"):
        check_output_file(tmp_path, overwrite=overwrite)
    (tmp_path / "file").touch()
    for parent in ("/proc/none", tmp_path / "file"):
        with pytest.raises(UserError, match=rf"output={parent}/deeper cannot be written to: "):
            check_output_file(Path(parent, "deeper", "codes.npz"), overwrite=overwrite)
    os.mkfifo(tmp_path / "pipe")
    check_output_file(tmp_path / "pipe", overwrite=True)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_names_that_are_not_utf_8_are_escaped(suffix: str, tmp_path: Path):
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / f"table{suffix}"
    with ColumnFiles("output", path) as columns:
        columns.append({"file": np.array([os.fsdecode(b"caf\xe9.png"), "café.png"]), "elbo": np.zeros(2)})
        columns.save()
    names = [r"caf\udce9.png", "café.png"]
    if suffix == ".csv":
        assert [line.split(",")[0] for line in path.read_text("utf-8").splitlines()] == ["file", *names]
    else:
        assert parquet.read_table(path)["file"].to_pylist() == names
