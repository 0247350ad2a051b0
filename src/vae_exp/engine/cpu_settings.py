"""Settings of the process with which a CPU computes faster."""

import ctypes
import sys

import numpy as np
import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of mallopt(3)
_MOST_KEPT_BYTES = 2**30
_LARGEST_ON_HEAP = 32 * 2**20  # the most that glibc takes


def speed_up_cpu() -> None:
    """Count denormals as 0, and keep the memory of tensors that are freed for those that come.

    Adam's moments of weights without a gradient decay to denormals and remain so; some CPUs take ten times as long
    for each. Threads of torch that exist already do not take this setting over.

    glibc returns the memory of tensors of some megabytes to the system, which clears every page of the next ones.
    """
    for dtype in (np.float32, np.float64):
        np.finfo(dtype)  # numpy < 2.4 keeps it, and would warn later that the smallest denormal is 0
    torch.set_flush_denormal(True)
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(_TRIM_THRESHOLD, _MOST_KEPT_BYTES)
        mallopt(_MMAP_THRESHOLD, _LARGEST_ON_HEAP)
