"""Seeds, generators and random states of a run."""

import os
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

STREAMS = ("shuffle", "noise", "evaluation")


def seed_everything(seed: int) -> None:
    """Seed the process-wide generators, which initialise weights; call it before anything is built."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def make_generator(seed: int, stream: str, device: torch.device, after: int = 0) -> torch.Generator:
    """A generator for one use, independent of the other streams of the same seed.

    Args:
        seed: The run's seed.
        stream: One of `STREAMS`.
        device: Where the draws are made.
        after: Epochs that were drawn on another device; each gives another stream.
    """
    entropy = [seed % 2**32, STREAMS.index(stream), after, seed >> 32]  # each is one word of 32 bits
    [mixed] = np.random.SeedSequence(entropy).generate_state(1, np.uint64)
    generator = torch.Generator(device)
    generator.manual_seed(int(mixed >> np.uint64(1)))
    return generator


def set_deterministic(enabled: bool) -> None:
    """Restrict torch to deterministic kernels, or let it choose the fastest.

    On the CPU the same run gives the same bits either way; on CUDA only with this.
    """
    if enabled:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    if enabled != torch.are_deterministic_algorithms_enabled():  # the call imports a second's worth of torch
        torch.use_deterministic_algorithms(enabled)
    torch.backends.cudnn.benchmark = False


def get_process_rng_state(device: torch.device) -> dict[str, Any]:
    """The state of the process-wide generators, which user code may draw from."""
    version, inner, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": (version, torch.tensor(inner), gauss),  # not as 625 numbers, which checkpoints walk through
        "numpy": (kind, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def set_process_rng_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Restore the state of the process-wide generators; earlier versions stored lists of numbers."""
    version, inner, gauss = state["python"]
    random.setstate((version, tuple(torch.as_tensor(inner).tolist()), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.asarray(torch.as_tensor(keys), dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
