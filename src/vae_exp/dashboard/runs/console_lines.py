"""The last lines that a run has printed, in one array of bytes: objects would take three times the memory."""

from array import array
from collections.abc import Iterator
from typing import NamedTuple

MAX_LINES = 2_000
_MAX_LINE_LENGTH = 10_000


class ConsoleText(NamedTuple):
    """Text that the run printed, with its line ends."""

    text: str
    error: bool


class Console:
    """The last lines that a run has printed."""

    def __init__(self) -> None:
        self.text = bytearray()
        self.lengths = array("i")  # of the lines in bytes; below zero for errors, one less

    def append(self, text: str, error: bool) -> None:
        """Add a line; of a long one the beginning is stored."""
        line = text[:_MAX_LINE_LENGTH].encode("utf-8", "surrogatepass")
        self.text += line
        self.lengths.append(~len(line) if error else len(line))
        if len(self.lengths) >= 2 * MAX_LINES:
            del self.text[: sum(map(_length, self.lengths[:MAX_LINES]))]
            del self.lengths[:MAX_LINES]

    def __iter__(self) -> Iterator[ConsoleText]:
        end = 0
        first = len(self.lengths) - MAX_LINES
        for number, length in enumerate(self.lengths):
            start, end = end, end + _length(length)
            if number >= first:
                yield ConsoleText(self.text[start:end].decode("utf-8", "surrogatepass"), length < 0)


def _length(length: int) -> int:
    return ~length if length < 0 else length
