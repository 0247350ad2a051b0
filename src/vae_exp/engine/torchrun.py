"""What torchrun tells the processes it starts; without it there is one process."""

import os


def launched() -> bool:
    """Whether torchrun has started this process."""
    return "RANK" in os.environ


def size() -> int:
    """How many processes it has started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Which of them this is, from 0."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Which of those on this machine this is, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def assists() -> bool:
    """Whether another process leads this one: the leader alone writes and tracks."""
    return rank() > 0
