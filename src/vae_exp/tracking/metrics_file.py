"""`metrics.jsonl`: a line per epoch that survives whatever happens elsewhere."""

import logging
from collections.abc import Mapping
from pathlib import Path

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
        try:
            self._file = path.open("x", buffering=1)
        except FileExistsError:
            raise UserError(
                f"{path.parent} already holds a run; choose another directory (hydra.run.dir=…)."
            ) from None

    @classmethod
    def resumed(cls, path: Path, lines: int) -> "MetricsFile":
        """Go on after the first `lines` lines; whatever follows them was not part of a checkpoint."""
        written = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        kept = [line for line in written[:lines] if line.endswith(b"\n")]
        if len(kept) < lines:
            _log.warning("%s has lost %d of %d lines; the run goes on.", path, lines - len(kept), lines)
        write_atomically(path, lambda file: file.writelines(kept))
        resumed = cls.__new__(cls)
        resumed._file = path.open("a", buffering=1)
        return resumed

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Write one line, at once."""
        self._file.write(to_json_line({"step": step, **metrics}))

    def log_figures(self, figures: Mapping[str, Path], step: int) -> None:
        """Figures already lie beside the file."""

    def close(self) -> None:
        """No more lines follow."""
        self._file.close()
