import os
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vae_exp.engine.seeding import (
    STREAMS,
    get_process_rng_state,
    make_generator,
    seed_everything,
    set_deterministic,
    set_process_rng_state,
)

CPU = torch.device("cpu")


def _draws(seed: int, stream: str) -> Tensor:
    return torch.randn(64, generator=make_generator(seed, stream, CPU))


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
    torch.rand(4, generator=make_generator(0, "noise", CPU))
    assert torch.equal(torch.rand(4), expected)


def _initial_weights(seed: int) -> Tensor:
    seed_everything(seed)
    return nn.Linear(8, 8).weight.detach().clone()


def test_seeding_the_process_reproduces_initial_weights():
    assert torch.equal(_initial_weights(5), _initial_weights(5))
    assert not torch.equal(_initial_weights(5), _initial_weights(6))


def test_seeding_the_process_reaches_python_and_numpy():
    seed_everything(5)
    first = random.random(), np.random.rand()
    seed_everything(5)
    assert (random.random(), np.random.rand()) == first


def test_a_seed_beyond_what_numpy_takes_is_accepted():
    assert torch.equal(_initial_weights(2**40), _initial_weights(2**40))


def _draw_from_all() -> list[float]:
    return [
        *(random.random() for _ in range(3)),
        random.gauss(0, 1),
        *np.random.rand(3).tolist(),
        float(np.random.randn()),
        *torch.rand(3).tolist(),
    ]


@pytest.mark.parametrize("before", [0, 1, 2, 700])
def test_the_process_goes_on_drawing_from_where_it_was(before: int):
    seed_everything(5)
    for _ in range(before):
        _draw_from_all()  # one draw of a pair of normals, so that the other is kept
    state = get_process_rng_state(CPU)
    expected = [_draw_from_all() for _ in range(3)]
    seed_everything(6)
    set_process_rng_state(state, CPU)
    assert [_draw_from_all() for _ in range(3)] == expected


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict | list | tuple):
        return [leaf for each in (value.values() if isinstance(value, dict) else value) for leaf in _leaves(each)]
    return [value]


def test_the_state_of_the_process_is_a_few_tensors_which_are_cheap_to_copy():
    assert len(_leaves(get_process_rng_state(CPU))) < 20


def test_lists_of_numbers_that_earlier_versions_stored_are_restored():
    seed_everything(5)
    state = get_process_rng_state(CPU)
    lists = {name: [each.tolist() if isinstance(each, Tensor) else each for each in state[name]]
             for name in ("python", "numpy")}  # fmt: skip
    expected = _draw_from_all()
    seed_everything(6)
    set_process_rng_state({**state, **lists}, CPU)
    assert _draw_from_all() == expected


def test_taking_the_state_of_the_process_draws_nothing():
    seed_everything(5)
    expected = _draw_from_all()
    seed_everything(5)
    get_process_rng_state(CPU)
    assert _draw_from_all() == expected


def test_a_state_of_another_kind_of_device_is_taken_as_far_as_it_goes():
    seed_everything(5)
    state = {**get_process_rng_state(CPU), "cuda": torch.zeros(16, dtype=torch.uint8)}
    expected = _draw_from_all()
    set_process_rng_state(state, CPU)
    assert _draw_from_all() == expected


def test_the_state_of_a_cuda_device_is_kept_and_restored(monkeypatch: pytest.MonkeyPatch):
    device, restored = torch.device("cuda:1"), []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda asked: torch.tensor([asked.index]))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, asked: restored.append((state.item(), asked)))
    set_process_rng_state(get_process_rng_state(device), device)
    assert restored == [(1, device)]


@pytest.fixture
def _own_switches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    yield
    torch.use_deterministic_algorithms(False)
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


@pytest.mark.usefixtures("_own_switches")
def test_deterministic_kernels_are_a_matter_of_choice():
    set_deterministic(True)
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    set_deterministic(False)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.usefixtures("_own_switches")
def test_a_workspace_of_the_users_choice_stays():
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":16:8"
    set_deterministic(True)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


@pytest.mark.usefixtures("_own_switches")
@pytest.mark.parametrize("wanted", [False, True])
def test_no_kernel_is_chosen_by_a_race(wanted: bool):
    torch.backends.cudnn.benchmark = True
    set_deterministic(wanted)
    assert not torch.backends.cudnn.benchmark
