"""W&B's own reader of its files, for those whose format is not known here."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

_TIMEOUT_SECONDS = 60.0


class LeetError(Exception):
    """W&B's own reader could not read the file either."""


def inspected(path: Path) -> list[dict[str, Any]]:
    """All records of a file as `wandb leet inspect --json` prints them.

    Raises:
        LeetError: if it fails or takes too long.
    """
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
    try:
        ended = subprocess.run(  # noqa: S603 - no shell, and the file is an argument of its own
            command, capture_output=True, timeout=_TIMEOUT_SECONDS, stdin=subprocess.DEVNULL, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LeetError(str(error)) from error
    if ended.returncode != 0 and not ended.stdout:
        told = ended.stderr.decode(errors="replace").strip()
        raise LeetError(told or f"wandb leet ended with {ended.returncode}")
    return [record for line in ended.stdout.splitlines() if isinstance(record := _parsed(line), dict)]


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
