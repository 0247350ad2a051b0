"""The wall seconds of the phases of a run."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def measure_phase(seconds: dict[str, float], phase: str) -> Iterator[None]:
    """Add the wall seconds of a block to those of a phase."""
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[phase] = seconds.get(phase, 0.0) + time.perf_counter() - start
