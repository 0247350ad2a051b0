"""Redaction of what names people and places in exported data."""

import re
from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any

from vae_exp.dashboard.runs.run import Run

LEFT_OUT = "(left out)"
_NAMES = ("host", "username", "email")
_MIN_NAME_LENGTH = 3
# An address with its scheme, a path from the root, the home, a drive or a share, or one that leaves its folder.
_PLACE = re.compile(
    r"""\w[\w+.-]*://[^\s"'<>]+
    | (?<![\w)\]}.~<-])
      (?: ~[\w.-]*/ | /(?=[\w.~-]) | [A-Za-z]:[\\/] | \\\\ | (?:\./)*\.\./ | file: )
      [^\s"'<>,;)\]}]*
    """,
    re.VERBOSE,
)


class Redactor:
    """Removes absolute paths, addresses, and the names of machines and users.

    Args:
        runs: Runs whose machines and users are redacted.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        segments = [segment for run in runs for segment in run.segments]
        recorded = {str(segment.environment.get(key, "")) for segment in segments for key in _NAMES}
        recorded |= {segment.info.host for segment in segments}
        names = sorted((name for name in recorded if len(name) >= _MIN_NAME_LENGTH), key=len, reverse=True)
        pattern = rf"(?<!\w)(?:{'|'.join(map(re.escape, names))})(?!\w)"
        self._names = re.compile(pattern, re.IGNORECASE) if names else None

    def redact(self, value: Any) -> Any:
        """Return the same value without them, in keys as well."""
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, list):
            return [self.redact(x) for x in value]
        if isinstance(value, dict):
            return dict(zip(self.redact_keys(value), map(self.redact, value.values()), strict=True))
        return value

    def redact_key(self, key: str) -> str:
        """Return a key without paths; its words are those of a program, not names of people."""
        return _PLACE.sub(LEFT_OUT, key)

    def redact_keys(self, keys: Iterable[str]) -> list[str]:
        """Return the keys of one mapping without paths; those that would be the same are numbered."""
        names: list[str] = []
        for key in keys:
            name = self.redact_key(key)
            numbered = (f"{name} {number}" for number in count(2))
            names.append(name if name not in names else next(x for x in numbered if x not in names))
        return names

    def _text(self, text: str) -> str:
        text = _PLACE.sub(LEFT_OUT, text)
        return self._names.sub(LEFT_OUT, text) if self._names else text
