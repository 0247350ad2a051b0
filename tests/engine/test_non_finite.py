from dataclasses import dataclass, field
from math import inf, isfinite, nan
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.builders import small_vae
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


def rows_on(device: str, rows: Tensor) -> Any:
    """A buffer of rows on the CPU that are said to be elsewhere."""
    return SimpleNamespace(rows=SimpleNamespace(device=torch.device(device), sum=rows.sum))


class FakeGPU:
    """A monitor of steps on a second GPU that is not there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.event, self.rows, self.steps, zeros = FakeEvent(), torch.zeros(500, 3), 0, torch.zeros
        with monkeypatch.context() as patched:
            patched.setattr(torch, "zeros", lambda *shape, **_: zeros(*shape))
            patched.setattr(torch.cuda, "Event", lambda: self.event)
            self._monitor = LossMonitor(rows_on("cuda:1", self.rows))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"that of {device}")

    def poll(self, loss: float = 1.0) -> Tensor | None:
        sums = torch.tensor([loss, 2.0, 0.0])
        self.rows[self.steps] = sums
        self.steps += 1
        return self._monitor.poll(4 * sums, 4)


def test_on_the_cpu_every_step_is_seen_at_once_and_without_events_none():
    monitor = LossMonitor(EpochLossBuffer(5, torch.zeros(1)))
    assert monitor.poll(torch.tensor([1.0, 2.0, 3.0]), 2).tolist() == [0.5, 1.0, 1.5]
    assert LossMonitor(rows_on("mps", torch.zeros(5, 3))).poll(torch.tensor([nan, 0.0, 0.0]), 4) is None


def test_a_copy_starts_every_32_steps_is_read_at_a_later_step_and_not_waited_for(monkeypatch):
    gpu = FakeGPU(monkeypatch)
    gpu.rows[0] = torch.tensor([1e30, -1e30, 3.0])  # large finite steps do not change what is seen
    gpu.steps = 1
    assert [gpu.poll(loss=float(step)) for step in range(1, STEPS + 1)] == [None] * STEPS
    assert gpu.event.queries == 0
    gpu.event.arrived = False
    assert [gpu.poll() for _ in range(100)] == [None] * 100
    gpu.event.arrived = True
    assert gpu.poll(loss=0.0).tolist() == [STEPS, 2.0, 0.0]
    assert gpu.event.streams == ["that of cuda:1"]


def test_of_several_steps_at_a_time_a_copy_starts_at_the_first_poll_after_32(monkeypatch):
    gpu = FakeGPU(monkeypatch)
    gpu.rows[0] = nan
    copies = []
    for _ in range(5):
        gpu._monitor.poll(torch.ones(3), 1, steps=20)
        copies.append(len(gpu.event.streams))
        gpu.event.arrived = False
    assert copies == [0, 1, 1, 1, 1]
    gpu.event.arrived = True
    assert gpu._monitor.poll(torch.ones(3), 1, steps=20).isnan().all()


def test_polling_continues_and_earlier_results_do_not_change(monkeypatch):
    gpu = FakeGPU(monkeypatch)
    polled = [gpu.poll(loss=float(step)) for step in range(1, 5 * STEPS)]
    losses = [terms[0].item() for terms in polled if terms is not None]
    assert len(losses) == len(gpu.event.streams) == 4
    assert losses[0] == STEPS
    assert losses == sorted(set(losses))


@settings(max_examples=60)
@given(value=st.sampled_from([nan, inf, -inf]), bad=st.integers(min_value=0, max_value=STEPS - 1))
def test_a_non_finite_step_is_seen_though_later_ones_are_finite(monkeypatch, value: float, bad: int):
    gpu = FakeGPU(monkeypatch)
    polled = [gpu.poll(loss=value if step == bad else 1.0) for step in range(STEPS + 1)]
    assert not isfinite(polled[-1][0].item())


@pytest.mark.cuda
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_a_real_device_is_polled_without_waiting():
    device = torch.device("cuda", 0)
    monitor, sums = (
        LossMonitor(EpochLossBuffer(64, torch.zeros(1, device=device))),
        torch.tensor([4.0, 3.0, 1.0], device=device),
    )
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
    checker = NonFiniteChecker(vae, EpochLossBuffer(1, torch.zeros(1)))
    for weight in vae.parameters():
        with torch.no_grad():
            before = weight.clone()
            weight.view(-1)[-1] = value
        with CountsReads() as reads:
            assert checker.weights_are_finite() is finite
        assert reads.count == 1
        with torch.no_grad():
            weight.copy_(before)
