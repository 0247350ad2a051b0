"""Seeds: every source of randomness of a run follows from one number."""

import random

import numpy as np
import torch

STREAMS = ("shuffle", "noise", "evaluation")


def seed_process(seed: int) -> None:
    """Seed the process-wide generators, which initialise weights; called before anything is built."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def generator(seed: int, stream: str, device: torch.device) -> torch.Generator:
    """A generator for one use, independent of the other streams of the same seed.

    Args:
        seed: The run's seed.
        stream: One of `STREAMS`.
        device: Where the draws are made.
    """
    [mixed] = np.random.SeedSequence([seed, STREAMS.index(stream)]).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(mixed >> np.uint64(1)))
