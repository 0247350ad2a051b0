import os
import random
from collections.abc import Iterator
from itertools import product

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
    seeds = [*range(50), 2**40, 2**63]
    draws = {(seed, stream): tuple(_draws(seed, stream).tolist()) for seed in seeds for stream in STREAMS}
    assert len(set(draws.values())) == len(draws)
    assert tuple(_draws(7, "noise").tolist()) == draws[7, "noise"]


def test_seeds_above_32_bits_share_no_stream_with_others():
    """Numbers of more than 32 bits are two words to numpy: 2**32 with `shuffle` was 0 with `noise`."""
    uses = [*product((0, 1, 2**32, 2**32 + 1), STREAMS, (0, 1, 2))]
    streams = [make_generator(seed, stream, CPU, after).initial_seed() for seed, stream, after in uses]
    assert len(set(streams)) == len(streams)
    for (seed, stream, after), number in zip(uses, streams, strict=True):
        if seed < 2**32:
            entropy = [seed, STREAMS.index(stream), *([after] if after else [])]  # as it always was
            assert number == int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))


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


def test_states_of_earlier_versions_and_of_other_devices_are_taken_as_far_as_they_go():
    seed_everything(5)
    state = get_process_rng_state(CPU)
    lists = {
        name: [value.tolist() if isinstance(value, Tensor) else value for value in state[name]]
        for name in ("python", "numpy")
    }
    expected = _draw_from_all()
    for change in (lists, {"cuda": torch.zeros(16, dtype=torch.uint8)}):
        seed_everything(6)
        set_process_rng_state({**state, **change}, CPU)
        assert _draw_from_all() == expected


@pytest.fixture
def _own_switches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    yield
    torch.use_deterministic_algorithms(False)
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


@pytest.mark.usefixtures("_own_switches")
def test_deterministic_kernels_are_optional_a_workspace_of_the_user_stays_and_no_kernel_is_chosen_by_a_race():
    for is_enabled, own_workspace, workspace in (
        (True, None, ":4096:8"),
        (False, ":4096:8", ":4096:8"),
        (True, ":16:8", ":16:8"),
    ):
        if own_workspace is not None:
            os.environ["CUBLAS_WORKSPACE_CONFIG"] = own_workspace
        torch.backends.cudnn.benchmark = True
        set_deterministic(is_enabled)
        assert torch.are_deterministic_algorithms_enabled() is is_enabled
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == workspace
        assert not torch.backends.cudnn.benchmark
