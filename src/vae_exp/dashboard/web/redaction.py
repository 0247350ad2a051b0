"""What names people and places, taken out of what is handed on."""

import re
from collections.abc import Sequence
from typing import Any

from vae_exp.dashboard.runs.run import Run

LEFT_OUT = "(left out)"
_NAMES = ("host", "username", "email")
_LEAST_OF_A_NAME = 3
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
    """Leaves out absolute paths, addresses, and what machines and users are called.

    Args:
        runs: Whose machines and users are meant.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        segments = [segment for run in runs for segment in run.segments]
        found = {str(segment.environment.get(key, "")) for segment in segments for key in _NAMES}
        found |= {segment.info.host for segment in segments}
        names = sorted((name for name in found if len(name) >= _LEAST_OF_A_NAME), key=len, reverse=True)
        words = rf"(?<!\w)(?:{'|'.join(map(re.escape, names))})(?!\w)"
        self._names = re.compile(words, re.IGNORECASE) if names else None

    def of(self, value: Any) -> Any:
        """The same value without them, in keys as well."""
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, list):
            return [self.of(each) for each in value]
        if isinstance(value, dict):
            return {self.of_key(key): self.of(each) for key, each in value.items()}
        return value

    def of_key(self, key: str) -> str:
        """A key; words in it are those of a program, and name nobody."""
        return _PLACE.sub(LEFT_OUT, key)

    def _text(self, text: str) -> str:
        text = _PLACE.sub(LEFT_OUT, text)
        return self._names.sub(LEFT_OUT, text) if self._names else text
