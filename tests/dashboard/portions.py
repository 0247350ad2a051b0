"""Reads a file to its end, portion by portion."""

from typing import Any


def read_to_end(reader: Any) -> list[Any]:
    """Return all that a `WandbLogReader` or an `EventSource` has for now."""
    items = list(reader.read())
    while reader.has_more:
        items += reader.read()
    return items
