"""A training step recorded once as a CUDA graph and replayed: the host launches one thing instead of a hundred."""

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vae_exp.engine.host_state import HostStateSnapshot, first_change
from vae_exp.engine.recorded_rates import RecordedRates
from vae_exp.engine.train_step import TrainStep

_log = logging.getLogger(__name__)
_WARM_UPS = 3
_REGISTERS_GENERATORS = torch.__version__ >= "2.14"  # by itself, at the first draw in a recording


class _Recording(NamedTuple):
    graph: torch.cuda.CUDAGraph
    sums: Tensor
    options: tuple[Any, ...]


class CUDAGraphStep:
    """Runs a training step eagerly until it is warm, then records it and replays the recording.

    There is a recording for each batch size, and a new one whenever an option of the optimiser has changed,
    because a recording holds them as constants; the learning rate is read from the device where the optimiser
    can, in warm-up steps too, so that all steps of a run round alike. The warm-up steps are real steps of the
    training: recording runs nothing, so no state has to be put back.

    A model that waits for the device, draws from a generator that the recording does not know, or changes
    something on the host in its last warm-up step (an attribute, a random state) goes on eagerly, and a warning
    says why. What changes on the host more rarely than from step to step is not seen: it stays in the
    recording as it was.

    Args:
        step: What is recorded.
        device: A CUDA device, with its index.
        whole: The size of whole batches, which alone are worth a recording; None records all sizes.
    """

    def __init__(self, step: TrainStep, device: torch.device, whole: int | None = None) -> None:
        self.fallback: str | None = None
        self._step = step
        self._device = device
        self._whole = whole
        self._stream = _capture_stream(device)
        self._recordings: dict[int, _Recording] = {}
        self._runs: Counter[int] = Counter()
        self._host = HostStateSnapshot(step.score, step.optimizer)
        self._rates: RecordedRates | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """For the length of a block, everything is ordered on the stream of the recordings."""
        with torch.cuda.device(self._device):
            self._stream.wait_stream(torch.cuda.current_stream())
            try:
                with torch.cuda.stream(self._stream):
                    yield
            finally:
                torch.cuda.current_stream().wait_stream(self._stream)

    def __call__(self, size: int) -> Tensor:
        """One step on a batch of `size` images; the sums of its terms, `[3]`, in nats."""
        self._step.feed.prepare()
        rates = self._rates = self._rates or self._begin()
        rates.follow()
        if self.fallback is not None or self._whole not in (None, size):
            return self._eager(size, rates)
        if self._runs[size] < _WARM_UPS:
            return self._warm_up(size, rates)
        options = self._options(rates)
        recorded = self._recordings.get(size)
        if recorded is None or recorded.options != options:
            recorded = self._record(size, rates, options)
        if recorded is None:
            return self._eager(size, rates)
        recorded.graph.replay()
        return recorded.sums

    def _begin(self) -> RecordedRates:
        """Not before the first step: until then a checkpoint may replace the optimiser's groups."""
        make_capturable(self._step.optimizer)
        return RecordedRates(self._step.optimizer, self._device)

    def _eager(self, size: int, rates: RecordedRates) -> Tensor:
        with rates.in_place():
            return self._step.on_device(size)

    def _warm_up(self, size: int, rates: RecordedRates) -> Tensor:
        self._runs[size] += 1
        if self._runs[size] < _WARM_UPS:
            return self._eager(size, rates)
        before = self._host.seen()
        sums = self._eager(size, rates)
        changed = first_change(before, self._host.seen())
        if changed is not None:
            self._give_up(f"{changed} changes from step to step, which a recording would not see")
        return sums

    def _record(self, size: int, rates: RecordedRates, options: tuple[Any, ...]) -> _Recording | None:
        self._recordings.pop(size, None)
        noise_before = self._step.noise.get_state().clone()
        graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
        try:
            if not _REGISTERS_GENERATORS:
                graph.register_generator_state(self._step.noise)
            self._step.optimizer.zero_grad(set_to_none=True)
            recording = torch.cuda.graph(graph, pool=pool, stream=self._stream, capture_error_mode="thread_local")
            with recording:
                sums = self._eager(size, rates)
        except Exception as error:  # whatever a model does that cannot be recorded
            self._undo(graph, pool, noise_before)
            if isinstance(_root(error), torch.OutOfMemoryError):
                raise _root(error) from None
            self._give_up(_described(_root(error)))
            return None
        self._recordings[size] = _Recording(graph, sums, options)
        return self._recordings[size]

    def _give_up(self, reason: str) -> None:
        """Go on eagerly."""
        self.fallback = reason
        self._recordings.clear()
        _log.warning(
            "Steps cannot be recorded as a CUDA graph (%s); training goes on without, which is slower. "
            "trainer.step=eager does not try.",
            reason,
        )

    def _undo(self, graph: torch.cuda.CUDAGraph, pool: tuple[int, int], noise_state: Tensor) -> None:
        """Clean up after a recording that failed: before 2.14, torch leaves allocator and generators recording."""
        torch.cuda.synchronize(self._device)
        graph.reset()
        if not _REGISTERS_GENERATORS:
            index = self._device.index
            with suppress(RuntimeError):  # torch 2.13 has ended the first of the two
                torch._C._cuda_endAllocateToPool(index, pool)
                torch._C._cuda_releasePool(index, pool)
            default = torch.cuda.default_generators[index]
            default.graphsafe_set_state(default.clone_state())
        noise = torch.Generator(self._device)
        noise.set_state(noise_state)
        self._step.noise = noise

    def _options(self, rates: RecordedRates) -> tuple[Any, ...]:
        """What a recording holds as constants."""
        return tuple(
            value
            for group in self._step.optimizer.param_groups
            for name, value in group.items()
            if name != "params" and not isinstance(value, Tensor) and not (name == "lr" and rates.covers(group))
        )


@cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all recordings of a process: cuBLAS keeps a workspace for each stream that it has seen."""
    return torch.cuda.Stream(device)


def _root(error: BaseException) -> BaseException:
    """What went wrong first: leaving a broken recording raises an error of its own on top."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def make_capturable(optimizer: torch.optim.Optimizer) -> None:
    """Tell optimisers that count their steps to count them on the device."""
    optimizer._warned_capturable_if_run_uncaptured = True  # the warm-ups would warn
    for group in optimizer.param_groups:
        if "capturable" in group:
            group["capturable"] = True
    for state in optimizer.state.values():
        step = state.get("step")
        if isinstance(step, Tensor):
            state["step"] = step.to(next(iter(optimizer.param_groups[0]["params"])).device)
