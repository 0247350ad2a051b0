"""A cache of what files hold, in the user's cache folder, so that the next dashboard need not read them again."""

import hashlib
import logging
import os
import sqlite3
import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

_NAME = "dashboard.sqlite"
_MAX_BYTES = 2**30
_WAIT_SECONDS = 1.0  # for another dashboard that writes
_MAX_FAILURES = 3
# What decides how files are read.
_SOURCES = ("dashboard/reader", "dashboard/runs", "metrics.py", "tracking/wandb_log.py")
_TABLE = "CREATE TABLE IF NOT EXISTS segments (path TEXT PRIMARY KEY, file TEXT NOT NULL, data BLOB NOT NULL)"
_SIZE = (
    "SELECT (page_count - freelist_count) * page_size "
    "FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
)
_OLDEST = "DELETE FROM segments WHERE rowid IN (SELECT rowid FROM segments ORDER BY rowid LIMIT ?)"
T = TypeVar("T")
_log = logging.getLogger(__name__)


def cache_folder() -> Path | None:
    """Return the folder for what can be made again, by the rules of the platform; None if there is no home."""
    try:
        if sys.platform == "win32":
            root = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
        elif sys.platform == "darwin":
            root = Path.home() / "Library" / "Caches"
        else:
            root = Path(os.environ.get("XDG_CACHE_HOME", ""))
            root = root if root.is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        return None
    return root / "vae_exp"


class SegmentCache:
    """Bytes by file, at most `max_bytes` in all; the oldest are removed first. For one thread; it never raises.

    An entry is valid while the file has the same inode, size and times and the same code reads it. A damaged
    database is removed; after a few failures the cache is not used.

    Args:
        folder: Its folder, for the user alone; None stores nothing.
        max_bytes: The limit.
    """

    def __init__(self, folder: Path | None, max_bytes: int = _MAX_BYTES) -> None:
        self._path = None if folder is None else folder / _NAME
        self._max_bytes = max_bytes
        self._opened: sqlite3.Connection | None = None
        self._failures = 0

    def get(self, path: Path, status: os.stat_result) -> bytes | None:
        """Return what is stored of a file, None if that is nothing or if the file has changed."""
        query = "SELECT data FROM segments WHERE path = ? AND file = ?"
        row = self._try(lambda database: database.execute(query, _key(path, status)).fetchone())
        return None if row is None else row[0]

    def put(self, entries: Sequence[tuple[Path, os.stat_result, bytes]]) -> None:
        """Store entries, if no other dashboard writes for long."""
        rows = [(*_key(path, status), data) for path, status, data in entries]
        if rows:
            self._try(lambda database: self._write(database, rows))

    def close(self) -> None:
        """Close the database."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _write(self, database: sqlite3.Connection, rows: Sequence[tuple[str, str, bytes]]) -> None:
        with database:
            database.execute("BEGIN IMMEDIATE")
            database.executemany("INSERT OR REPLACE INTO segments VALUES (?, ?, ?)", rows)
            while database.execute(_SIZE).fetchone()[0] > self._max_bytes:
                count = database.execute("SELECT count(*) FROM segments").fetchone()[0]
                if not count:
                    break
                database.execute(_OLDEST, (-(-count // 10),))

    def _try(self, action: Callable[[sqlite3.Connection], T]) -> T | None:
        if self._path is None or self._failures >= _MAX_FAILURES:
            return None
        try:
            if self._opened is None:
                self._opened = _open(self._path)
            return action(self._opened)
        except (OSError, ValueError, sqlite3.OperationalError) as error:  # in use, full, or not to be written
            self._failures += 1
            _log.debug("%s cannot be used: %s", self._path, error)
        except sqlite3.DatabaseError as error:
            _log.debug("%s is damaged: %s", self._path, error)
            self.close()
            _remove(self._path)
        return None


def _open(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite gives its journal the same mode
    database = sqlite3.connect(path, timeout=_WAIT_SECONDS, isolation_level=None)
    try:
        database.execute("PRAGMA synchronous = OFF")  # entries have checksums
        database.execute(_TABLE)
    except sqlite3.Error:
        database.close()
        raise
    return database


def _remove(path: Path) -> None:
    """Remove a database, its journal first: it would change a new one."""
    try:
        path.with_name(f"{path.name}-journal").unlink(missing_ok=True)
        path.unlink(missing_ok=True)
    except OSError as error:
        _log.debug("%s cannot be removed: %s", path, error)


def _key(path: Path, status: os.stat_result) -> tuple[str, str]:
    times = f"{status.st_mtime_ns} {status.st_ctime_ns}"
    name = os.fsencode(path).decode("utf-8", "backslashreplace")
    return name, f"{_version()} {status.st_dev} {status.st_ino} {status.st_size} {times}"


@cache
def _version() -> str:
    """A digest of the code that reads files and packs segments."""
    digest = hashlib.sha256(sys.byteorder.encode())
    package = files("vae_exp")
    for source in map(package.joinpath, _SOURCES):
        for file in [source] if source.is_file() else sorted(source.iterdir(), key=lambda file: file.name):
            digest.update(file.read_bytes() if file.name.endswith(".py") else b"")
    return digest.hexdigest()[:16]
