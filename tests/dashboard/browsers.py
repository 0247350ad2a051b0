"""The dashboard's pages in a headless browser, with their requests and complaints."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SILENT = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@dataclass
class Watched:
    """A page with its requests and errors.

    Args:
        page: Playwright's.
        requests: Requested addresses.
        complaints: Errors and warnings of the console, errors of scripts, dialogs.
    """

    page: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@contextmanager
def dashboard(roots: Sequence[Path], *options: str) -> Iterator[str]:
    """A new server; yields its address."""
    command = [sys.executable, "-m", "vae_exp.dashboard", *map(str, roots), "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split()[1]
    finally:
        process.terminate()
        process.wait(timeout=20)
        process.stdout.close()
