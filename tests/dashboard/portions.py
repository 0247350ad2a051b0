"""Reads a file to its end, portion by portion."""

from typing import Any


def everything(reader: Any) -> list[Any]:
    """All that a `WandbLogReader` or an `EventSource` has for now."""
    found = list(reader.read())
    while reader.has_more:
        found += reader.read()
    return found
