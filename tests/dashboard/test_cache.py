"""What files have said, stored in the user's cache folder: right whatever happens to a file or to the cache."""

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from wandb.proto.wandb_internal_pb2 import Record

from tests.dashboard.records import (
    alert_record,
    append,
    console_record,
    environment_record,
    exit_record,
    history_record,
    make_run,
    picture,
    run_record,
    stats_record,
)
from tests.wandb_records import encode_log
from vae_exp.dashboard.runs import cache as cache_module
from vae_exp.dashboard.runs.cache import SegmentCache, cache_folder
from vae_exp.dashboard.runs.segment import RunSegment
from vae_exp.dashboard.runs.store import RunStore
from vae_exp.dashboard.web import api

ROWS = [
    {"a": 1.0, "list": [1, 2]},
    {"a": float("nan"), "p": picture("media/x.png")},
    {"b": 3.0, "text": "é\ud800"},
]
MORE = [
    stats_record(1_700_000_010, {"cpu": 50.0}),
    console_record("out é\n"),
    console_record("error\n", error=True),
    alert_record("an alert"),
    environment_record(host="machine"),
]
OTHERS = [10**12, -1, "text", crc32(b"\2\0\0\0{}").to_bytes(4, "little") + b"\2\0\0\0{}"]
Place = tuple[Path, Path]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Two runs, and a folder for the cache."""
    root = tmp_path / "root"
    make_run(root, "one", {"x": {"y": 1}}, ROWS, more=MORE, display_name="a name", tags=["t", "u"])
    make_run(root, "two", {"x": {"y": 2}}, ROWS, exit_code=3, started=1_700_000_100)
    return root, tmp_path / "home" / "cache"


def read(root: Path, folder: Path | None) -> RunStore:
    """A store of what is written, some time afterwards."""
    store = RunStore([root], clock=lambda: time.time() + 10, cache=SegmentCache(folder))
    store.read_all()
    store.close()
    return store


def contents(store: RunStore) -> list[dict[str, Any]]:
    rows = []
    for run in sorted(store.runs.values(), key=lambda run: run.key):
        parts = api.serialize_row(run) | api.serialize_details(run, private=True)
        curves = [api.serialize_curves([run], run.keys, axis) for axis in api.X_AXES]
        rows.append(
            parts | {"curves": curves, "pictures": api.serialize_pictures(run), "steps": run.rows()[0].tolist()}
        )
    for row in rows:
        del row["version"]
        for curve in chain.from_iterable(row["curves"]):
            del curve["version"]
    return rows


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read from here on."""
    names: list[str] = []
    original = RunSegment.read

    def counted(segment: RunSegment) -> list[dict[str, Any]]:
        names.append(segment.path.name)
        return original(segment)

    monkeypatch.setattr(RunSegment, "read", counted)
    return names


def test_what_is_stored_is_what_was_read(place: Place, reads: list[str]):
    root, folder = place
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    expected = contents(read(root, None))
    assert contents(read(root, folder)) == expected
    reads.clear()
    assert contents(read(root, folder)) == expected
    assert reads == []
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    [database] = folder.iterdir()
    assert stat.S_IMODE(database.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def file_of(root: Path, run_id: str) -> Path:
    [path] = root.glob(f"wandb/*-{run_id}/*.wandb")
    return path


def replace(path: Path) -> None:
    """Another run of the same size and time in the same place."""
    status, data = path.stat(), path.read_bytes()
    first = encode_log([run_record("one", {}, display_name="longer")])[0]
    other = path.with_suffix(".new")
    other.write_bytes(first + bytes(len(data) - len(first)))
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)


def overwrite(path: Path) -> None:
    """Other bytes in the same file, whose time is set back."""
    status, data = path.stat(), path.read_bytes()
    time.sleep(0.05)
    path.write_bytes(data[:100] + bytes(len(data) - 100))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def grow(path: Path) -> None:
    append(path, history_record(90, {"a": 9.0}))


def shrink(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("change", [replace, overwrite, grow, shrink, Path.unlink])
def test_a_file_that_has_changed_is_read_again(place: Place, reads: list[str], change: Callable[[Path], None]):
    root, folder = place
    before = contents(read(root, folder))
    change(file_of(root, "one"))
    expected = contents(read(root, None))
    reads.clear()
    for _ in range(2):
        assert contents(read(root, folder)) == expected != before
    assert "run-two.wandb" not in reads


def test_a_restored_run_grows(place: Place):
    root, folder = place
    read(root, folder)
    store = read(root, folder)
    grow(file_of(root, "one"))
    store._discovered = float("-inf")
    store.read_all()
    store.close()
    assert contents(store) == contents(read(root, None))
    assert store.runs["one"].series("a")[1][-1] == 9


def test_a_run_that_is_written_is_not_stored(place: Place, reads: list[str]):
    root, folder = place
    make_run(root, "running", rows=ROWS, exit_code=None, started=1_700_000_200)
    make_run(root, "cut", more=[Record().SerializeToString()], started=1_700_000_300)
    cut = file_of(root, "cut")
    cut.write_bytes(encode_log([run_record("cut", {"text": "x" * 50_000}), exit_record()])[0][:40_000])
    read(root, folder)
    reads.clear()
    read(root, folder)
    assert set(reads) == {"run-running.wandb", "run-cut.wandb"}


def garbage(database: Path) -> None:
    database.write_bytes(b"no database at all" * 1_000)


def cut(database: Path) -> None:
    os.truncate(database, database.stat().st_size // 2)


def flip(database: Path) -> None:
    """Damage of the data that SQLite does not notice."""
    with sqlite3.connect(database) as connection:
        for rowid, data in connection.execute("SELECT rowid, data FROM segments").fetchall():
            damaged = data[:50] + bytes([data[50] ^ 1]) + data[51:]
            connection.execute("UPDATE segments SET data = ? WHERE rowid = ?", (damaged, rowid))
    connection.close()


def replace_by(value: Any) -> Callable[[Path], None]:
    """Values that this code has not written."""

    def damage(database: Path) -> None:
        with sqlite3.connect(database) as connection:
            connection.execute("UPDATE segments SET data = ?", (value,))
        connection.close()

    return damage


def stale_journal(database: Path) -> None:
    database.with_name(f"{database.name}-journal").write_bytes(b"\xd9\xd5\x05\xf9 and more" * 100)


@pytest.mark.parametrize("damage", [garbage, cut, flip, stale_journal, *map(replace_by, OTHERS)])
def test_a_damaged_cache_is_left_out_and_made_again(
    place: Place, reads: list[str], damage: Callable[[Path], None]
):
    root, folder = place
    expected = contents(read(root, folder))
    [database] = folder.iterdir()
    damage(database)
    for _ in range(3):
        reads.clear()
        assert contents(read(root, folder)) == expected
    assert reads == []


def test_a_cache_of_other_code_is_not_used(place: Place, reads: list[str], monkeypatch: pytest.MonkeyPatch):
    root, folder = place
    expected = contents(read(root, folder))
    monkeypatch.setattr(cache_module, "_version", lambda: "later")
    reads.clear()
    assert contents(read(root, folder)) == expected
    assert len(reads) == 2


@pytest.mark.parametrize("name", ["dashboard/runs/run.py", "metrics.py", "tracking/wandb_log.py"])
def test_code_that_reads_files_counts(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = Path(shutil.copytree(Path(cache_module.__file__).parents[2], tmp_path / "vae_exp"))
    monkeypatch.setattr(cache_module, "files", lambda _: package)
    before = cache_module._version.__wrapped__()
    assert cache_module._version.__wrapped__() == before
    (package / name).write_text("# other code")
    assert cache_module._version.__wrapped__() != before


def test_a_folder_that_cannot_be_used_stores_nothing(place: Place, tmp_path: Path):
    root, _ = place
    (tmp_path / "file").touch()
    assert contents(read(root, tmp_path / "file" / "cache")) == contents(read(root, None))


def test_the_oldest_entries_make_room(place: Place, tmp_path: Path):
    _, folder = place
    cache = SegmentCache(folder, max_bytes=300_000)
    status = tmp_path.stat()
    for number in range(100):
        cache.put([(tmp_path / str(number), status, bytes(10_000))])
    stored = [number for number in range(100) if cache.get(tmp_path / str(number), status)]
    cache.close()
    assert stored == list(range(stored[0], 100))
    assert 15 < len(stored) < 30
    assert (folder / "dashboard.sqlite").stat().st_size < 400_000


SCRIPT = """
import sys, time
from pathlib import Path
from vae_exp.dashboard.runs.cache import SegmentCache
from vae_exp.dashboard.runs.store import RunStore
store = RunStore([Path(sys.argv[1])], clock=lambda: time.time() + 10, cache=SegmentCache(Path(sys.argv[2])))
store.read_all()
print(len(store.runs), sum(len(run.series("a")[1]) for run in store.runs.values()))
"""


@pytest.mark.slow
def test_several_dashboards_share_the_cache(place: Place, reads: list[str]):
    root, folder = place
    for number in range(60):
        make_run(root, f"run{number}", rows=[{"a": 1.0}] * 50, started=1_700_001_000 + number)
    command = [sys.executable, "-c", SCRIPT, str(root), str(folder)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = {process.communicate(timeout=60)[0] for process in processes}
    assert outputs == {"62 3004\n"}
    expected = contents(read(root, None))
    reads.clear()
    assert contents(read(root, folder)) == expected
    assert reads == []


def test_a_cache_that_another_dashboard_writes_is_not_waited_for_long(place: Place):
    root, folder = place
    expected = contents(read(root, folder))
    blocking = sqlite3.connect(folder / "dashboard.sqlite", isolation_level=None)
    blocking.execute("BEGIN EXCLUSIVE")
    grow(file_of(root, "one"))
    start = time.monotonic()
    assert contents(read(root, folder)) != expected
    assert time.monotonic() - start < 10
    blocking.execute("ROLLBACK")
    blocking.close()


@pytest.mark.parametrize(
    ("platform", "variables", "folder"),
    [
        ("linux", {"HOME": "/home/me"}, "/home/me/.cache/vae_exp"),
        ("linux", {"HOME": "/home/me", "XDG_CACHE_HOME": "/var/mine"}, "/var/mine/vae_exp"),
        ("linux", {"HOME": "/home/me", "XDG_CACHE_HOME": "relative"}, "/home/me/.cache/vae_exp"),
        ("darwin", {"HOME": "/Users/me"}, "/Users/me/Library/Caches/vae_exp"),
        ("win32", {"HOME": "/x", "LOCALAPPDATA": "/Users/me/Local"}, "/Users/me/Local/vae_exp"),
    ],
)
def test_the_folder_of_each_platform(
    platform: str, variables: dict[str, str], folder: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "platform", platform)
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(folder)
