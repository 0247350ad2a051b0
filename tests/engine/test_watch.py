from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf, isfinite, nan

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from vae_exp.engine.watch import AsyncLossMonitor, NullLossMonitor, SyncLossMonitor, make_loss_monitor

STEPS = 32


@dataclass
class FakeEvent:
    """An event that arrives when a test says so; waiting for it is an error."""

    arrived: bool = True
    recorded: int = 0
    streams: set[object] = field(default_factory=set)
    queries: int = 0

    def record(self, stream: object = "that of the current device") -> None:
        self.recorded += 1
        self.streams.add(stream)

    def query(self) -> bool:
        self.queries += 1
        return self.arrived

    def synchronize(self) -> None:
        pytest.fail("the host waits for the device")


@dataclass
class Fake:
    """A watch, the event that it was given, and what its steps have scored."""

    watch: AsyncLossMonitor
    event: FakeEvent
    rows: Tensor = field(default_factory=lambda: torch.zeros(500, 3))
    steps: int = 0

    def look(self, loss: float = 1.0, rate: float = 0.0) -> Tensor | None:
        sums = torch.tensor([loss, 2.0, rate])
        self.rows[self.steps] = sums
        self.steps += 1
        return self.watch.look(4 * sums, self.rows, 4)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Fake]:
    zeros = torch.zeros
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"that of {device}")

    def unpinned(*shape: int, pin_memory: bool = False, **kind: object) -> Tensor:
        return zeros(*shape, **kind)

    def make() -> Fake:
        event = FakeEvent()
        with monkeypatch.context() as patched:
            patched.setattr(torch, "zeros", unpinned)
            patched.setattr(torch.cuda, "Event", lambda: event)
            return Fake(AsyncLossMonitor(torch.device("cuda:1")), event)

    return make


def test_on_the_cpu_every_step_is_seen_at_once():
    sums = torch.tensor([1.0, 2.0, 3.0])
    assert SyncLossMonitor().look(sums, torch.zeros(5, 3), 2).tolist() == [0.5, 1.0, 1.5]


def test_without_events_nothing_is_seen():
    assert NullLossMonitor().look(torch.tensor([nan, 0.0, 0.0]), torch.zeros(5, 3), 4) is None


def test_a_copy_is_ordered_every_so_many_steps_and_read_at_a_later_one(fake):
    made = fake()
    seen = [made.look(loss=float(step)) for step in range(1, STEPS + 2)]
    assert seen[:-1] == [None] * STEPS
    assert made.event.recorded == 1
    assert seen[-1].tolist() == [STEPS, 2.0, 0.0]


def test_the_device_is_not_even_asked_while_no_copy_is_under_way(fake):
    made = fake()
    for _ in range(STEPS):
        made.look()
    assert made.event.queries == 0


def test_a_copy_that_has_not_arrived_is_not_waited_for(fake):
    made = fake()
    for _ in range(STEPS):
        made.look(loss=7.0)
    made.event.arrived = False
    assert [made.look() for _ in range(100)] == [None] * 100
    assert made.event.recorded == 1
    made.event.arrived = True
    assert made.look()[0] == 7.0


def test_looking_goes_on_after_the_first_arrival(fake):
    made = fake()
    seen = [made.look(loss=float(step)) for step in range(1, 5 * STEPS)]
    losses = [each[0].item() for each in seen if each is not None]
    assert len(losses) == 4
    assert losses == sorted(set(losses))
    assert made.event.recorded == 4
    assert made.event.streams == {"that of cuda:1"}


def test_what_was_seen_does_not_change_with_the_next_copy(fake):
    made = fake()
    seen = [made.look(loss=float(step)) for step in range(1, 4 * STEPS)]
    first = next(each for each in seen if each is not None)
    assert first[0] == STEPS


@pytest.mark.parametrize("value", [nan, inf, -inf])
@settings(
    deadline=None, derandomize=True, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(step=st.integers(min_value=0, max_value=STEPS - 1))
def test_a_step_that_is_not_finite_is_seen_though_later_ones_are(fake, value: float, step: int):
    made = fake()
    seen = [made.look(loss=value if each == step else 1.0) for each in range(STEPS + 1)]
    assert not isfinite(seen[-1][0].item())


def test_finite_steps_are_seen_as_they_are(fake):
    made = fake()
    made.rows[0] = torch.tensor([1e30, -1e30, 3.0])
    made.steps = 1
    seen = [made.look(loss=3.25) for _ in range(STEPS + 1)]
    assert seen[-1].tolist() == [3.25, 2.0, 0.0]


def test_each_kind_of_device_has_its_watch(fake, monkeypatch: pytest.MonkeyPatch):
    assert isinstance(make_loss_monitor(torch.device("cpu")), SyncLossMonitor)
    assert isinstance(make_loss_monitor(torch.device("mps")), NullLossMonitor)
    monkeypatch.setattr(torch, "zeros", lambda *shape, **kind: None)
    assert isinstance(make_loss_monitor(torch.device("cuda:0")), AsyncLossMonitor)


@pytest.mark.cuda
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_a_real_device_is_watched_without_waiting():
    device = torch.device("cuda", 0)
    watch, rows = AsyncLossMonitor(device), torch.zeros(64, 3, device=device)
    sums = torch.tensor([4.0, 3.0, 1.0], device=device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        seen = [watch.look(sums, rows, 1) for _ in range(STEPS)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize(device)
    assert seen == [None] * STEPS
    assert watch.look(sums, rows, 1).tolist() == [4.0, 3.0, 1.0]
