import time

import pytest

from vae_exp.benchmark.interleave import (
    Burst,
    calibrated_steps,
    interleave,
    median_rate,
    ratios,
    spread,
    time_burst,
)


class Named:
    """Notes when it is called; every step takes some seconds of a clock that does not wait."""

    def __init__(self, name: str, calls: list[str], clock: list[float], seconds: float) -> None:
        self.name, self.calls, self.clock, self.seconds = name, calls, clock, seconds

    def run_steps(self, count: int) -> int:
        self.calls.append(f"{self.name}{count}")
        self.clock[0] += count * self.seconds
        return count * 100


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_every_round_runs_each_candidate_once_and_begins_with_another(clock):
    calls: list[str] = []
    candidates = {name: Named(name, calls, clock, 0.25) for name in "abc"}
    bursts = interleave(candidates, {"a": 1, "b": 2, "c": 3}, 4, lambda: None)
    assert calls == ["a1", "b2", "c3", "b2", "c3", "a1", "c3", "a1", "b2", "a1", "b2", "c3"]
    assert bursts["b"] == [Burst(0.5, 200)] * 4


def test_the_device_is_waited_for_at_the_ends_of_a_burst_alone(clock):
    calls: list[str] = []

    def wait() -> None:
        calls.append("wait")
        clock[0] += 1.0  # what the device had still to do

    assert time_burst(Named("a", calls, clock, 0.5), 4, wait) == Burst(3.0, 400)
    assert calls == ["wait", "a4", "wait"]


@pytest.mark.parametrize(("step_seconds", "steps"), [(0.001, 500), (0.03, 17), (2.0, 1)])
def test_a_calibrated_burst_takes_about_the_time_asked_for(clock, step_seconds, steps):
    count = calibrated_steps(Named("a", [], clock, step_seconds), 0.5, lambda: None)
    assert count == pytest.approx(steps, abs=1)


def test_rates_ratios_and_their_spread_are_those_of_hand_made_bursts():
    fast = [Burst(1.0, 400), Burst(2.0, 400), Burst(1.0, 900)]
    slow = [Burst(1.0, 100), Burst(1.0, 100), Burst(1.0, 100)]
    assert median_rate(fast) == 400
    assert ratios(fast, slow) == [4.0, 2.0, 9.0]
    assert spread([5.0, 1.0, 2.0, 4.0, 3.0]) == {"median": 3.0, "low": 2.0, "high": 4.0}
    assert spread([7.0]) == {"median": 7.0, "low": 7.0, "high": 7.0}
