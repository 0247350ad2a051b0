"""Environment that torchrun gives to its processes; imports nothing, for commands that answer without torch."""

import os


def is_launched() -> bool:
    """Whether torchrun has started this process."""
    return "RANK" in os.environ


def world_size() -> int:
    """The number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The rank of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """The rank of this process on this machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def is_main_process() -> bool:
    """Whether this process is the one that writes and tracks."""
    return rank() == 0
