"""Redaction of what names people and places in exported data."""

import re
from collections.abc import Sequence
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
            return {self.redact_key(key): self.redact(x) for key, x in value.items()}
        return value

    def redact_key(self, key: str) -> str:
        """Return a key without paths; its words are those of a program, not names of people."""
        return _PLACE.sub(LEFT_OUT, key)

    def _text(self, text: str) -> str:
        text = _PLACE.sub(LEFT_OUT, text)
        return self._names.sub(LEFT_OUT, text) if self._names else text
