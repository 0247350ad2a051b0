"""Peak memory: of the GPU contender by contender, of the host in a process for each."""

import json
import resource
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from vae_exp.benchmark.subprocesses import run_module

T = TypeVar("T")
_STATUS = Path("/proc/self/status")


def with_cuda_peak(make: Callable[[], T], device: torch.device) -> tuple[T, int | None]:
    """Run something on the GPU, and how many bytes its peak lay above what was held before; None elsewhere."""
    if device.type != "cuda":
        return make(), None
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    made = make()
    torch.cuda.synchronize(device)
    return made, torch.cuda.max_memory_allocated(device) - before


def host_peak() -> int:
    """The most memory that this process has held so far, in bytes.

    Linux hands `ru_maxrss` on from the process that starts another; its own high-water mark is taken where
    the system tells it.
    """
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def host_footprint(config: Mapping[str, Any], contender: str, batch_size: int, device: str) -> dict[str, int]:
    """Train a contender for a while in a process of its own.

    Args:
        config: The benchmark's config as plain containers, all interpolations resolved.
        contender: Its name.
        batch_size: Images per step.
        device: Where to train.

    Returns:
        In bytes: `imported`, the peak before the data are read, and `peak`, after the training.
    """
    order = {"config": dict(config), "contender": contender, "batch_size": batch_size, "device": device}
    out = run_module("vae_exp.benchmark.peak_memory", [], json.dumps(order))
    found: dict[str, int] = json.loads(out.splitlines()[-1])
    return found
