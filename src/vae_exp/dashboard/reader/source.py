"""Events of a `.wandb` file, through the native reader or, for unknown formats, `wandb leet`."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from vae_exp.dashboard.reader.events import Event
from vae_exp.dashboard.reader.log_reader import UnknownFormatError, WandbLogReader
from vae_exp.dashboard.reader.parse import InvalidRecordError, parse_event
from vae_exp.dashboard.reader.protobuf import decode_record

_LEET_TIMEOUT_SECONDS = 60.0


class LeetError(Exception):
    """W&B's own reader could not read the file either."""


class EventSource:
    """Reads a file that may still grow.

    `generation` changes when everything read before is void, because the file was replaced; `unfinished` counts
    the bytes at the end that are not a whole record yet; `has_more` says whether the last call of `read` has left
    something for the next.

    Args:
        path: The `.wandb` file.
    """

    def __init__(self, path: Path) -> None:
        self.generation = 0
        self.unfinished = 0
        self.has_more = False
        self._path = path
        self._log: WandbLogReader | None = WandbLogReader(path)
        self._leet_problem = ""
        self._invalid = 0

    @property
    def data_loss(self) -> str:
        """What could not be read; empty if nothing."""
        ranges = self._log.corrupt_ranges if self._log else []
        damage = f"{sum(x.length for x in ranges)} damaged bytes in {len(ranges)} places were skipped"
        invalid = f"{self._invalid} records could not be understood"
        parts = [damage if ranges else "", invalid if self._invalid else "", self._leet_problem]
        return "; ".join(filter(None, parts))

    def read(self) -> list[Event]:
        """Read a portion of the events that were written since the last call; with `wandb leet`, all events again.

        Raises:
            OSError: if the file cannot be read.
        """
        if self._log is not None:
            try:
                return self._read_log(self._log)
            except UnknownFormatError:
                self._log, self.has_more, self.unfinished = None, False, 0
        return self._read_with_leet()

    def _read_log(self, log: WandbLogReader) -> list[Event]:
        records = log.read()
        if self.generation != log.generation:
            self.generation, self._invalid = log.generation, 0
        self.has_more, self.unfinished = log.has_more, log.unread
        return [event for data in records if (event := self._event(data)) is not None]

    def _read_with_leet(self) -> list[Event]:
        """Read the whole file, as another generation."""
        try:
            records = inspect_with_leet(self._path)
        except LeetError as error:
            self._leet_problem = f"unknown format, and W&B's own reader says: {error}"
            return []
        self.generation += 1
        self._leet_problem, self._invalid = "", 0
        return [event for record in records if (event := self._event(record)) is not None]

    def _event(self, record: bytes | dict[str, Any]) -> Event | None:
        try:
            decoded = decode_record(record) if isinstance(record, bytes) else record
            return None if decoded is None else parse_event(decoded)
        except InvalidRecordError:
            self._invalid += 1
            return None


def inspect_with_leet(path: Path) -> list[dict[str, Any]]:
    """Return all records of a file as `wandb leet inspect --json` prints them.

    Raises:
        LeetError: if it fails or takes too long.
    """
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
    try:
        process = subprocess.run(  # noqa: S603 - no shell, and the file is a separate argument
            command, capture_output=True, timeout=_LEET_TIMEOUT_SECONDS, stdin=subprocess.DEVNULL, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LeetError(str(error)) from error
    if process.returncode != 0 and not process.stdout:
        message = process.stderr.decode(errors="replace").strip()
        raise LeetError(message or f"wandb leet ended with {process.returncode}")
    return [record for line in process.stdout.splitlines() if isinstance(record := _load_json(line), dict)]


def _load_json(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
