"""`metrics.jsonl`: a line per epoch that survives whatever happens elsewhere."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from vae_exp.errors import UserError
from vae_exp.run_directory import to_json_line, write_atomically

_log = logging.getLogger(__name__)


class MetricsFile:
    """Appends a JSON object per epoch; made once, so that two runs can never share a directory.

    Args:
        path: Where the lines go.

    Raises:
        UserError: if the file is there already: another run has written here.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._kept = path, 0
        try:
            self._file: TextIO | None = path.open("x", buffering=1)
        except FileExistsError:
            raise UserError(
                f"{path.parent} already holds a run; choose another directory (hydra.run.dir=…)."
            ) from None

    @classmethod
    def resumed(cls, path: Path, lines: int) -> "MetricsFile":
        """One that will go on after the first `lines` lines; until `begin` the file is left as it is."""
        resumed = cls.__new__(cls)
        resumed._path, resumed._kept, resumed._file = path, lines, None
        return resumed

    def begin(self) -> None:
        """Cut off the lines that were not part of the checkpoint, and go on after the others."""
        written = self._path.read_bytes().splitlines(keepends=True) if self._path.exists() else []
        kept = [line for line in written[: self._kept] if line.endswith(b"\n")]
        if len(kept) < self._kept:
            lost = self._kept - len(kept)
            _log.warning("%s has lost %d of %d lines; the run goes on.", self._path, lost, self._kept)
        write_atomically(self._path, lambda file: file.writelines(kept))
        self._file = self._path.open("a", buffering=1)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Write one line, at once."""
        assert self._file is not None, "begin() comes first"
        self._file.write(to_json_line({"step": step, **metrics}))

    def log_figures(self, figures: Mapping[str, Path], step: int) -> None:
        """Figures already lie beside the file."""

    def warn(self, title: str, text: str) -> None:
        """`result.json` has the warnings."""

    def log_lists(self, lists: Mapping[str, Sequence[float]], step: int) -> None:
        """A line has numbers alone."""

    def close(self) -> None:
        """No more lines follow."""
        if self._file is not None:
            self._file.close()
