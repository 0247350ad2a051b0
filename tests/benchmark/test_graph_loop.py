from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import replace
from unittest.mock import MagicMock

import pytest
import torch

from vae_exp.benchmark import candidates
from vae_exp.benchmark.candidates import GRAPH_LOOP, TENSOR_LOOP, candidate_specs

CUDA = torch.device("cuda")
BURSTS = (1, 1, 10, 28)  # three eager steps, a capture, and the end of an epoch of 24 among them


class FakeCuda:
    """Captured work has no effect, and runs again at each replay."""

    def __init__(self) -> None:
        self.loop = None
        self.events: list[str] = []

    @contextmanager
    def graph(self, graph: object, stream: object, capture_error_mode: str) -> Iterator[None]:
        assert (stream, capture_error_mode) == (self.loop._stream, "thread_local")
        assert all(weight.grad is None for weight in self.loop._net.parameters())
        state = deepcopy((self.loop._net.state_dict(), self.loop._optimizer.state_dict(), torch.get_rng_state()))
        yield
        self.loop._net.load_state_dict(state[0])
        self.loop._optimizer.load_state_dict(state[1])
        torch.set_rng_state(state[2])
        self.events.append("capture")

    def replay(self) -> None:
        self.events.append("replay")
        self.loop._train()


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    for name, value in {
        "graph": fake.graph,
        "CUDAGraph": lambda: MagicMock(replay=fake.replay),
        "Stream": MagicMock(),
        "current_stream": MagicMock(),
        "stream": lambda stream: nullcontext(),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return fake


def trained(loop) -> list[torch.Tensor]:
    assert [loop.run_steps(count) for count in BURSTS] == [50 * count for count in BURSTS]
    return [weight.detach() for weight in loop._net.parameters()]


def test_it_is_a_candidate_on_cuda_alone(case):
    names = list(candidate_specs(replace(case, device=CUDA), ["eager"], ["fp32"]))
    assert names == ["plain", "tensor_loop", "graph_loop", "engine/eager/fp32", "floor/fp32"]
    assert GRAPH_LOOP not in candidate_specs(case, ["eager"], ["fp32"])


def test_after_three_eager_steps_one_capture_is_replayed_which_makes_the_steps_of_the_tensor_loop(case, cuda):
    expected = trained(candidate_specs(case, ["eager"], ["fp32"])[TENSOR_LOOP].build())
    cuda.loop = candidates._graph_loop(case)
    for weight, other in zip(trained(cuda.loop), expected, strict=True):
        assert torch.equal(weight, other)
    assert cuda.events == ["capture"] + ["replay"] * (sum(BURSTS) - 3)
    [group] = cuda.loop._optimizer.param_groups
    assert (group["capturable"], group["fused"]) == (True, True)


@pytest.mark.cuda
def test_on_cuda_its_steps_are_those_of_the_tensor_loop_to_rounding(make_cases):
    [case] = make_cases("model.hidden_dims=[40,20]", "batch_size=[50]", device=CUDA)
    specs = candidate_specs(case, ["eager"], ["fp32"])
    loop = specs[GRAPH_LOOP].build()
    weights = trained(loop)
    assert loop._graph is not None
    for weight, other in zip(weights, trained(specs[TENSOR_LOOP].build()), strict=True):
        torch.testing.assert_close(weight, other, rtol=1e-3, atol=1e-3)
