from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf, isfinite, nan
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.builders import CPU, small_vae
from tests.engine.recordable import READS
from vae_exp.engine.non_finite import LossMonitor, NonFiniteChecker
from vae_exp.engine.train_step import EpochLossBuffer

STEPS = 32


@dataclass
class FakeEvent:
    """An event that arrives when a test says so; waiting for it is an error."""

    arrived: bool = True
    queries: int = 0
    streams: list[object] = field(default_factory=list)

    def record(self, stream: object) -> None:
        self.streams.append(stream)

    def query(self) -> bool:
        self.queries += 1
        return self.arrived

    def synchronize(self) -> None:
        pytest.fail("the host waits for the device")


@dataclass
class FakeBuffer:
    """Rows on the CPU whose device says that it is a second GPU."""

    rows: Any = field(default_factory=lambda: FakeRows(torch.zeros(500, 3), torch.device("cuda:1")))


@dataclass
class FakeRows:
    values: Tensor
    device: torch.device

    def sum(self, dim: int) -> Tensor:
        return self.values.sum(dim)


@dataclass
class FakeGPU:
    """A monitor of steps on a GPU that is not there."""

    event: FakeEvent = field(default_factory=FakeEvent)
    buffer: FakeBuffer = field(default_factory=FakeBuffer)
    monitor: Any = None
    steps: int = 0

    def poll(self, loss: float = 1.0) -> Tensor | None:
        sums = torch.tensor([loss, 2.0, 0.0])
        self.buffer.rows.values[self.steps] = sums
        self.steps += 1
        return self.monitor.poll(4 * sums, 4)


@pytest.fixture
def make_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[], FakeGPU]:
    zeros = torch.zeros
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"that of {device}")

    def make() -> FakeGPU:
        gpu = FakeGPU()
        with monkeypatch.context() as patched:
            patched.setattr(torch, "zeros", lambda *shape, **_: zeros(*shape))
            patched.setattr(torch.cuda, "Event", lambda: gpu.event)
            gpu.monitor = LossMonitor(gpu.buffer)
        return gpu

    return make


def test_on_the_cpu_every_step_is_seen_at_once():
    monitor = LossMonitor(EpochLossBuffer(5, CPU))
    assert monitor.poll(torch.tensor([1.0, 2.0, 3.0]), 2).tolist() == [0.5, 1.0, 1.5]


def test_without_events_nothing_is_seen():
    rows = FakeRows(torch.zeros(5, 3), torch.device("mps"))
    assert LossMonitor(FakeBuffer(rows)).poll(torch.tensor([nan, 0.0, 0.0]), 4) is None


def test_a_copy_starts_every_32_steps_and_is_read_at_a_later_step(make_gpu):
    gpu = make_gpu()
    polled = [gpu.poll(loss=float(step)) for step in range(1, STEPS + 1)]
    assert polled == [None] * STEPS
    assert gpu.event.queries == 0
    assert gpu.poll(loss=0.0).tolist() == [STEPS, 2.0, 0.0]
    assert gpu.event.streams == ["that of cuda:1"]


def test_a_copy_that_has_not_arrived_is_not_waited_for(make_gpu):
    gpu = make_gpu()
    for _ in range(STEPS):
        gpu.poll(loss=7.0)
    gpu.event.arrived = False
    assert [gpu.poll() for _ in range(100)] == [None] * 100
    gpu.event.arrived = True
    assert gpu.poll()[0] == 7.0
    assert len(gpu.event.streams) == 1


def test_polling_continues_and_earlier_results_do_not_change(make_gpu):
    gpu = make_gpu()
    polled = [gpu.poll(loss=float(step)) for step in range(1, 5 * STEPS)]
    losses = [terms[0].item() for terms in polled if terms is not None]
    assert len(losses) == len(gpu.event.streams) == 4
    assert losses[0] == STEPS
    assert losses == sorted(set(losses))


@pytest.mark.parametrize("value", [nan, inf, -inf])
@settings(max_examples=20)
@given(bad=st.integers(min_value=0, max_value=STEPS - 1))
def test_a_non_finite_step_is_seen_though_later_ones_are_finite(make_gpu, value: float, bad: int):
    gpu = make_gpu()
    polled = [gpu.poll(loss=value if step == bad else 1.0) for step in range(STEPS + 1)]
    assert not isfinite(polled[-1][0].item())


def test_large_finite_steps_do_not_change_what_is_seen(make_gpu):
    gpu = make_gpu()
    gpu.buffer.rows.values[0] = torch.tensor([1e30, -1e30, 3.0])
    gpu.steps = 1
    assert [gpu.poll(loss=3.25) for _ in range(STEPS + 1)][-1].tolist() == [3.25, 2.0, 0.0]


@pytest.mark.cuda
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_a_real_device_is_polled_without_waiting():
    device = torch.device("cuda", 0)
    monitor, sums = LossMonitor(EpochLossBuffer(64, device)), torch.tensor([4.0, 3.0, 1.0], device=device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        polled = [monitor.poll(sums, 1) for _ in range(STEPS)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize(device)
    assert polled == [None] * STEPS
    assert monitor.poll(sums, 1).tolist() == [4.0, 3.0, 1.0]


class CountsReads(TorchDispatchMode):
    """Counts the operations that read a value on the host."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func._schema.name in READS
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("value", "finite"), [(1e38, True), (-3.0, True), (nan, False), (inf, False), (-inf, False)]
)
def test_all_weights_are_checked_in_one_wait_for_the_device(value: float, finite: bool):
    vae = small_vae()
    checker = NonFiniteChecker(vae, EpochLossBuffer(1, CPU))
    for weight in vae.parameters():
        with torch.no_grad():
            before = weight.clone()
            weight.view(-1)[-1] = value
        with CountsReads() as reads:
            assert checker.weights_are_finite() is finite
        assert reads.count == 1
        with torch.no_grad():
            weight.copy_(before)
