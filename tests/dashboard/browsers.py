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


def watch(page: Any) -> Watched:
    """A page whose requests and complaints are noted."""
    result = Watched(page)
    page.on("request", lambda request: result.requests.append(request.url))
    page.on(
        "console", lambda message: message.type in ("error", "warning") and result.complaints.append(message.text)
    )
    page.on("pageerror", lambda error: result.complaints.append(str(error)))
    page.on("dialog", lambda dialog: (result.complaints.append(f"dialog {dialog.message}"), dialog.dismiss()))
    return result


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
