"""Where the events of a `.wandb` file come from; another reader has the same members."""

from pathlib import Path
from typing import Protocol

from vae_exp.dashboard.reader.events import Event
from vae_exp.dashboard.reader.leet import LeetError, inspected
from vae_exp.dashboard.reader.log_reader import UnknownFormatError, WandbLogReader
from vae_exp.dashboard.reader.parse import StrangeRecordError, event_of
from vae_exp.dashboard.reader.protobuf import UnreadableRecordError, plain_record


class EventSource(Protocol):
    """Reads a file that may still grow."""

    @property
    def generation(self) -> int:
        """Changes when everything read before is void, because the file was replaced."""
        ...

    @property
    def lost(self) -> str:
        """What could not be read, in words; empty if nothing."""
        ...

    @property
    def unfinished(self) -> int:
        """Bytes at the end that are no whole record yet; of a file that no longer grows, they are lost."""
        ...

    @property
    def has_more(self) -> bool:
        """Whether the last call of `read` has left something for the next."""
        ...

    def read(self) -> list[Event]:
        """A portion of the events that have come since the last call.

        Raises:
            OSError: if the file cannot be read.
        """
        ...


class NativeSource:
    """Reads the file itself, from where it stopped.

    Args:
        path: The `.wandb` file.
    """

    def __init__(self, path: Path) -> None:
        self._log = WandbLogReader(path)
        self._strange = 0
        self._generation = 0

    @property
    def generation(self) -> int:
        """Changes when the file was replaced."""
        return self._log.generation

    @property
    def lost(self) -> str:
        """What could not be read, in words."""
        told = []
        if self._log.damages:
            count = sum(each.length for each in self._log.damages)
            told.append(f"{count} damaged bytes in {len(self._log.damages)} places were skipped")
        if self._strange:
            told.append(f"{self._strange} records could not be understood")
        return "; ".join(told)

    @property
    def unfinished(self) -> int:
        """Bytes at the end that are no whole record yet."""
        return self._log.unread

    @property
    def has_more(self) -> bool:
        """Whether the last portion did not go to the end of the file."""
        return self._log.has_more

    def read(self) -> list[Event]:
        """A portion of the events that have come since the last call.

        Raises:
            OSError: if the file cannot be read.
            UnknownFormatError: if it is not of the known format.
        """
        records = self._log.read()
        if self._generation != self._log.generation:
            self._generation, self._strange = self._log.generation, 0
        return [event for data in records if (event := self._event(data)) is not None]

    def _event(self, data: bytes) -> Event | None:
        try:
            record = plain_record(data)
            return None if record is None else event_of(record)
        except (UnreadableRecordError, StrangeRecordError):
            self._strange += 1
            return None


class LeetSource:
    """Asks W&B's own reader, for the whole file whenever it has changed.

    Args:
        path: The `.wandb` file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self.unfinished = 0
        self.generation = 0
        self.has_more = False
        self.lost = ""

    def read(self) -> list[Event]:
        """All events of the file if it has changed, as another generation.

        Raises:
            OSError: if the file cannot be read.
        """
        found = self._path.stat()
        if self._stamp == (found.st_size, found.st_mtime_ns):
            return []
        self._stamp = found.st_size, found.st_mtime_ns
        try:
            records = inspected(self._path)
        except LeetError as error:
            self.lost = f"unknown format, and W&B's own reader says: {error}"
            return []
        self.generation += 1
        events, strange = [], 0
        for record in records:
            try:
                event = event_of(record)
            except StrangeRecordError:
                strange += 1
                continue
            if event is not None:
                events.append(event)
        self.lost = f"{strange} records could not be understood" if strange else ""
        return events


class FileSource:
    """Reads a file itself where it knows the format, through W&B's own reader otherwise.

    Args:
        path: The `.wandb` file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._source: EventSource = NativeSource(path)

    @property
    def generation(self) -> int:
        """Changes when everything read before is void."""
        return self._source.generation

    @property
    def lost(self) -> str:
        """What could not be read, in words."""
        return self._source.lost

    @property
    def unfinished(self) -> int:
        """Bytes at the end that are no whole record yet."""
        return self._source.unfinished

    @property
    def has_more(self) -> bool:
        """Whether the last call of `read` has left something for the next."""
        return self._source.has_more

    def read(self) -> list[Event]:
        """A portion of the events that have come since the last call.

        Raises:
            OSError: if the file cannot be read.
        """
        try:
            return self._source.read()
        except UnknownFormatError:
            self._source = LeetSource(self._path)
            return self._source.read()
