import errno
import os
import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from vae_exp.data.image_cache import create_npy, open_cache, write_npy
from vae_exp.errors import UserError


def images():
    for number in range(10):
        yield np.full((1, 2, 2), number, dtype=np.uint8)


def build(path: Path) -> dict:
    write_npy(path, (10, 1, 2, 2), np.uint8, images())
    return {"note": "kept"}


def refuse(path: Path) -> dict:
    raise AssertionError("it is there already")


def test_a_cache_is_built_once(tmp_path: Path):
    path = tmp_path / "cache" / "ten.npy"
    for builder in (build, refuse):
        cached = open_cache(path, "ten images", builder, dict)
        assert cached.pixels[:].flatten(1)[:, 0].tolist() == list(range(10))
        assert cached.notes == {"note": "kept"}
    assert np.array_equal(np.load(path), np.stack(list(images())))
    assert sorted(file.name for file in path.parent.iterdir()) == ["ten.json", "ten.lock", "ten.npy"]


def test_a_failed_build_leaves_nothing(tmp_path: Path):
    path = tmp_path / "ten.npy"

    def fail(temporary: Path) -> dict:
        build(temporary)
        raise UserError("an image cannot be read")

    with pytest.raises(UserError, match="an image cannot be read"):
        open_cache(path, "ten images", fail, dict)
    assert [file.name for file in tmp_path.iterdir()] == ["ten.lock"]


def test_what_a_killed_process_has_left_is_removed(tmp_path: Path):
    leftover = tmp_path / ".ten.npy.123.tmp"
    leftover.write_bytes(b"half")
    open_cache(tmp_path / "ten.npy", "ten images", build, dict)
    assert not leftover.exists()


def test_a_full_disk_is_noticed_before_anything_is_decoded_and_leaves_nothing(tmp_path: Path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    message = rf"the cache {re.escape(str(tmp_path))}/ten\.npy cannot be written: .*No space left.*data\.root=DIR"
    with pytest.raises(UserError, match=message):
        open_cache(tmp_path / "ten.npy", "ten images", build, dict)
    assert [file.name for file in tmp_path.iterdir()] == ["ten.lock"]


def test_what_no_disk_holds_is_refused(tmp_path: Path):
    with pytest.raises(
        UserError, match=r"8 images of \[3, .*\] take .* GB, more than the disk .*; use smaller or"
    ):
        create_npy(tmp_path / "ten.npy", (8, 3, 2**35, 2**35))
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_later_leaves_nothing(tmp_path: Path):
    def write_half(path: Path) -> dict:
        create_npy(path, (10, 1, 2, 2))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(UserError, match="No space left"):
        open_cache(tmp_path / "ten.npy", "ten images", write_half, dict)
    assert [file.name for file in tmp_path.iterdir()] == ["ten.lock"]


@pytest.mark.parametrize("spoil", [lambda path: path.write_bytes(path.read_bytes()[:-1]), Path.unlink])
def test_a_damaged_cache_says_what_to_delete(spoil, tmp_path: Path):
    path = tmp_path / "ten.npy"
    open_cache(path, "ten images", build, dict)
    spoil(path if spoil is not Path.unlink else path.with_suffix(".json"))
    with pytest.raises(UserError, match=r"ten\.npy cannot be read .*; delete it, and it is built again"):
        open_cache(path, "ten images", refuse, dict)


def test_another_process_is_waited_for_and_its_cache_is_used(tmp_path: Path, caplog):
    caplog.set_level("INFO")
    path = tmp_path / "ten.npy"
    locked = threading.Event()

    def write_theirs() -> None:
        with FileLock(path.with_suffix(".lock")):
            locked.set()
            time.sleep(0.3)
            build(path)
            path.with_suffix(".json").write_text('{"note": "theirs"}')

    other = threading.Thread(target=write_theirs)
    other.start()
    locked.wait()
    cached = open_cache(path, "ten images", refuse, dict)
    other.join()
    assert cached.notes == {"note": "theirs"}
    assert f"Waiting for another process, which writes ten images to {path}" in caplog.text


def test_space_is_reserved(tmp_path: Path):
    offset = create_npy(tmp_path / "zeros.npy", (1000, 1, 8, 8))
    assert (tmp_path / "zeros.npy").stat().st_size == offset + 64_000
    assert (tmp_path / "zeros.npy").stat().st_blocks * 512 >= 64_000
    assert not np.load(tmp_path / "zeros.npy").any()
