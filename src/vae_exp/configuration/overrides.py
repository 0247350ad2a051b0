"""Overrides of a command line as strings: their keys and values, and values within quotes."""

import re
from collections.abc import Iterable


def split_override(override: str) -> tuple[str, str]:
    """The key of an override as it is written, without `+` or `~`, and its value."""
    key, _, value = override.lstrip("+~").partition("=")
    return key, value


def override_key(override: str) -> str:
    """The key of an override with dots: `+a.b=1` has `a.b`, `a/b=c` and `a/b@d=c` too."""
    return split_override(override)[0].partition("@")[0].replace("/", ".")


def overrides_by_key(overrides: Iterable[str]) -> dict[str, str]:
    """The values of overrides by their keys as they are written."""
    return dict(map(split_override, overrides))


def quote_value(text: str) -> str:
    """A value as Hydra's grammar takes it, whatever characters it has."""
    escaped = re.sub(r"(\\*)('|$)", lambda match: 2 * match[1] + (match[2] and "\\'"), text)
    return f"'{escaped}'"
