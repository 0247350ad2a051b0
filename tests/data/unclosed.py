"""Files and sockets that code forgets to close: found where they are left, not in a later test."""

import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def unclosed_files() -> Iterator[list[warnings.WarningMessage]]:
    """What the interpreter says, at the end of the block, of the files that the block leaves open."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", ResourceWarning)
        yield said
        gc.collect()
