import os
import random
from collections.abc import Iterator

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


def test_every_seed_and_stream_has_its_own_draws():
    assert set(STREAMS) == {"shuffle", "noise", "evaluation"}
    draws = {(seed, stream): tuple(_draws(seed, stream).tolist()) for seed in range(50) for stream in STREAMS}
    assert len(set(draws.values())) == 50 * len(STREAMS)
    assert tuple(_draws(7, "noise").tolist()) == draws[7, "noise"]


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


@pytest.mark.parametrize("seed", [5, 2**40])
def test_seeding_reproduces_initial_weights_and_draws_of_python_and_numpy(seed: int):
    weights, draws = _initial_weights(seed), _draw_from_all()
    assert torch.equal(_initial_weights(seed), weights)
    assert _draw_from_all() == draws
    assert not torch.equal(_initial_weights(6), weights)


def _draw_from_all() -> list[float]:
    return [
        *(random.random() for _ in range(3)),
        random.gauss(0, 1),
        *np.random.rand(3).tolist(),
        float(np.random.randn()),
        *torch.rand(3).tolist(),
    ]


@pytest.mark.parametrize("before", [0, 1, 700])
def test_the_process_continues_drawing_from_its_state(before: int):
    seed_everything(5)
    for _ in range(before):
        _draw_from_all()  # one draw of a pair of normals, so that the other is kept
    state = get_process_rng_state(CPU)
    get_process_rng_state(CPU)  # draws nothing
    expected = [_draw_from_all() for _ in range(3)]
    seed_everything(6)
    set_process_rng_state(state, CPU)
    assert [_draw_from_all() for _ in range(3)] == expected


def test_lists_of_numbers_that_earlier_versions_stored_are_restored():
    seed_everything(5)
    state = get_process_rng_state(CPU)
    lists = {name: [each.tolist() if isinstance(each, Tensor) else each for each in state[name]]
             for name in ("python", "numpy")}  # fmt: skip
    expected = _draw_from_all()
    seed_everything(6)
    set_process_rng_state({**state, **lists}, CPU)
    assert _draw_from_all() == expected


def test_a_state_of_another_kind_of_device_is_taken_as_far_as_it_goes():
    seed_everything(5)
    state = {**get_process_rng_state(CPU), "cuda": torch.zeros(16, dtype=torch.uint8)}
    expected = _draw_from_all()
    set_process_rng_state(state, CPU)
    assert _draw_from_all() == expected


@pytest.fixture
def _own_switches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    yield
    torch.use_deterministic_algorithms(False)
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


@pytest.mark.usefixtures("_own_switches")
def test_deterministic_kernels_are_optional_and_a_workspace_of_the_user_stays():
    set_deterministic(True)
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    set_deterministic(False)
    assert not torch.are_deterministic_algorithms_enabled()
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":16:8"
    set_deterministic(True)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


@pytest.mark.usefixtures("_own_switches")
@pytest.mark.parametrize("enabled", [False, True])
def test_no_kernel_is_chosen_by_a_race(enabled: bool):
    torch.backends.cudnn.benchmark = True
    set_deterministic(enabled)
    assert not torch.backends.cudnn.benchmark
