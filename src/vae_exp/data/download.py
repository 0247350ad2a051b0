"""Asking for data on the network: whether anybody answers, and how long to wait."""

import hashlib
import queue
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

from vae_exp.errors import UserError

PROBE_SECONDS = 3.0
STALL_SECONDS = 10.0
NOT_ALLOWED = "a stored config downloads nothing unless you name the folder"


def md5_of(archive: Path) -> str:
    """The MD5 of a file, as data sets publish it.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        return hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest()
    except OSError as error:
        raise UserError(f"{archive} cannot be read: {error}.") from error


@contextmanager
def patience() -> Iterator[None]:
    """For the length of a block, downloads of torchvision's may stall so long; it sets no limit of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALL_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def those_that_answer(addresses: Sequence[str], seconds: float = PROBE_SECONDS) -> list[str]:
    """Those of the addresses that answer at all, asked side by side; returns with the first of them.

    Name look-ups know no time-out, so each probe runs in a thread of its own that is left behind after `seconds`.
    """
    answers: queue.SimpleQueue[tuple[str, bool]] = queue.SimpleQueue()
    for address in addresses:
        threading.Thread(
            target=lambda at: answers.put((at, _answers(at, seconds))), args=(address,), daemon=True
        ).start()
    deadline = time.monotonic() + seconds
    found: list[str] = []
    for _ in addresses:
        try:
            address, answered = answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        if answered:
            found.append(address)
            break
    return found


def _answers(address: str, seconds: float) -> bool:
    try:
        request = urllib.request.Request(address, method="HEAD")  # noqa: S310
        with urllib.request.urlopen(request, timeout=seconds):  # noqa: S310
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return True
    except (OSError, ValueError, HTTPException):
        return False
