"""`metrics.jsonl`: one JSON object per epoch and one of the scores at the end, with checksums."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO
from zlib import crc32

from vae_exp.metrics import with_current_metrics
from vae_exp.storage.atomic_io import read_regular, to_json_line, write_atomically

_log = logging.getLogger(__name__)
_CHECKSUM = "crc32"


class JsonlMetrics:
    """Appends a JSON object per epoch.

    Args:
        path: The file; the caller holds the lock of its directory.
        epochs: How many epochs a resumed run has trained; their lines stay.
        last: What the line of the last of these epochs holds, as the checkpoint has it.
    """

    def __init__(self, path: Path, epochs: int = 0, last: Mapping[str, Any] | None = None) -> None:
        self._path, self._epochs, self._last = path, epochs, last
        self._file: TextIO | None = None

    def truncate_and_open(self) -> None:
        """Open the file: remove lines of later epochs and damaged ones, restore the last one if need be."""
        retained = self._undamaged()
        write_atomically(self._path, lambda file: file.writelines(line + b"\n" for line in retained))
        self._file = self._path.open("a", buffering=1)

    def _undamaged(self) -> list[bytes]:
        content = read_regular(self._path).split(b"\n") if self._epochs and self._path.exists() else []
        by_epoch: dict[Any, bytes] = {}
        for number, line in enumerate(content, 1):
            row = read_row(line)
            if row is not None:
                by_epoch.setdefault(row.get("epoch"), line)
            elif number <= self._epochs and line:
                _log.warning(
                    "%s: line %d is damaged, and removed: %r", self._path, number, line.decode(errors="replace")
                )
        if self._last is not None:
            last = _to_line(self._last)[:-1].encode()
            if read_row(by_epoch.get(self._epochs, b"")) != read_row(last):
                by_epoch[self._epochs] = last
                _log.warning("%s: line %d is restored from the checkpoint.", self._path, self._epochs)
        retained = [by_epoch[epoch] for epoch in range(1, self._epochs + 1) if epoch in by_epoch]
        if len(retained) < self._epochs:
            lost = self._epochs - len(retained)
            _log.warning("%s has lost %d of %d lines; the run continues.", self._path, lost, self._epochs)
        return retained

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Write one line, at once."""
        assert self._file is not None, "truncate_and_open() comes first"
        self._file.write(_to_line({"step": step, **metrics}))

    def log_figures(self, figures: Mapping[str, Path], step: int) -> None:
        """Nothing to write: figures are files beside this one."""

    def warn(self, title: str, text: str) -> None:
        """`result.json` has the warnings."""

    def log_lists(self, lists: Mapping[str, Sequence[float]], step: int) -> None:
        """A line has numbers alone."""

    def close(self) -> None:
        """No more lines follow."""
        if self._file is not None:
            self._file.close()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All lines of the file but damaged ones, in order."""
    rows = [read_row(line) for line in read_regular(path).splitlines()]
    return [row for row in rows if row is not None]


def read_row(line: bytes) -> dict[str, Any] | None:
    """The numbers of a line without its checksum; None if it is damaged.

    Lines of older versions have no checksum: of these any JSON object of numbers is read.
    """
    text, mark, _ = line.partition(f', "{_CHECKSUM}": '.encode())
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict):
        return None
    if mark and row.pop(_CHECKSUM, None) != _checksum(text):
        return None
    if not all(value is None or isinstance(value, int | float) for value in row.values()):
        return None
    return with_current_metrics(row)


def _to_line(row: Mapping[str, Any]) -> str:
    """A line of JSON whose last value is the CRC-32, in hexadecimal digits, of all before `, "crc32"`."""
    text = to_json_line(row).removesuffix("}\n")
    return f'{text}, "{_CHECKSUM}": "{_checksum(text.encode())}"}}\n'


def _checksum(text: bytes) -> str:
    return f"{crc32(text):08x}"
