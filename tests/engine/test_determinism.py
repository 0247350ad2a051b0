import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vae_exp.engine.determinism import STREAMS, generator, seed_process

CPU = torch.device("cpu")


def _draws(seed: int, stream: str) -> Tensor:
    return torch.randn(64, generator=generator(seed, stream, CPU))


def test_there_are_streams_for_order_noise_and_evaluation():
    assert set(STREAMS) == {"shuffle", "noise", "evaluation"}


@pytest.mark.parametrize("stream", STREAMS)
def test_the_same_seed_gives_the_same_draws(stream: str):
    assert torch.equal(_draws(7, stream), _draws(7, stream))


@pytest.mark.parametrize("stream", STREAMS)
def test_another_seed_gives_other_draws(stream: str):
    assert not torch.equal(_draws(7, stream), _draws(8, stream))


def test_streams_of_one_seed_differ():
    first_draws = {tuple(_draws(7, stream).tolist()) for stream in STREAMS}
    assert len(first_draws) == len(STREAMS)


def test_streams_do_not_meet_in_neighbouring_seeds():
    first_draws = {tuple(_draws(seed, stream).tolist()) for seed in range(50) for stream in STREAMS}
    assert len(first_draws) == 50 * len(STREAMS)


@pytest.mark.parametrize("seed", [0, 2**32, 2**63])
def test_small_and_large_seeds_are_accepted(seed: int):
    assert torch.isfinite(_draws(seed, "noise")).all()


def test_a_generator_does_not_touch_the_process_wide_one():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    torch.rand(4, generator=generator(0, "noise", CPU))
    assert torch.equal(torch.rand(4), expected)


def _initial_weights(seed: int) -> Tensor:
    seed_process(seed)
    return nn.Linear(8, 8).weight.detach().clone()


def test_seeding_the_process_reproduces_initial_weights():
    assert torch.equal(_initial_weights(5), _initial_weights(5))
    assert not torch.equal(_initial_weights(5), _initial_weights(6))


def test_seeding_the_process_reaches_python_and_numpy():
    seed_process(5)
    first = random.random(), np.random.rand()
    seed_process(5)
    assert (random.random(), np.random.rand()) == first


def test_a_seed_beyond_what_numpy_takes_is_accepted():
    assert torch.equal(_initial_weights(2**40), _initial_weights(2**40))
