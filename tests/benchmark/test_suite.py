import pytest

from vae_exp.benchmark import suite
from vae_exp.benchmark.candidates import CandidateSpec, candidate_specs
from vae_exp.configuration.schema import BenchmarkConfig


class Stack:
    """Trains four models, each on every batch."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def run_steps(self, count: int) -> int:
        self.steps.append(count)
        return count * 4 * 50


def test_any_candidate_has_all_figures_by_the_floor_of_its_precision(case, monkeypatch):
    stack = Stack()

    def specs(*arguments):
        return candidate_specs(*arguments) | {"stacked/4": CandidateSpec(lambda: stack)}

    monkeypatch.setattr(suite, "candidate_specs", specs)
    settings = BenchmarkConfig(rounds=3, burst_steps=2, memory=True, stack_sizes=[])
    figures = suite._measure(case, ["eager"], ["fp32"], settings)["candidates"]
    stacked, floor, plain = figures["stacked/4"], figures["floor/fp32"], figures["plain"]
    assert stack.steps[:2] + stack.steps[3:] == [1, 1, 2, 2, 2]  # between them the warm-up
    assert stacked["burst_images"] == [2 * 4 * 50] * 3
    for key, other in (("over_floor", floor), ("over_plain", plain)):
        seconds = zip(stacked["burst_seconds"], other["burst_seconds"], strict=True)
        times = sorted(mine / theirs / 4 for mine, theirs in seconds)
        expected = times[1] if key == "over_floor" else 1 / times[1]
        assert stacked[key]["median"] == pytest.approx(expected)
    rate = sorted(200 * 2 / seconds for seconds in stacked["burst_seconds"])[1]
    assert stacked["images_per_second"] == pytest.approx(rate)
    assert stacked["seconds_per_epoch"] == pytest.approx(len(case.images) / rate)
    assert (stacked["kernels_per_step"], stacked["peak_bytes"]) == (0, None)
    assert set(stacked) == set(plain)
