"""A training step recorded once as a CUDA graph and replayed: the host launches one thing instead of a hundred."""

import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from vae_exp.distributions.sampling import ShardedGenerator
from vae_exp.engine.host_state import HostState, first_change
from vae_exp.engine.recorded_rates import RecordedRates
from vae_exp.engine.training_step import TrainingStep

_log = logging.getLogger(__name__)
_WARM_UPS = 3
_Key = tuple[int, tuple[str, ...]]


class GraphStep:
    """Runs a training step eagerly until it is warm, then records it and replays the recording.

    There is a recording for each batch size, and a new one whenever an option of the optimiser has changed,
    because a recording holds them as constants; the learning rate of Adam it reads from the device. The warm-up
    steps are real steps of the training: recording runs nothing, so no state has to be put back.

    A model that waits for the device, draws from a generator that the recording does not know, or changes
    something on the host in its last warm-up step (an attribute, a random state) goes on eagerly, and a warning
    says why. What changes on the host more rarely than from step to step is not seen: it stays in the
    recording as it was.

    Args:
        step: What is recorded.
        device: A CUDA device.
        whole: The size of whole batches, which alone are worth a recording; None records all sizes.
    """

    def __init__(self, step: TrainingStep, device: torch.device, whole: int | None = None) -> None:
        self.fallback: str | None = None
        self._step = step
        self._device = device
        self._whole = whole
        self._stream = torch.cuda.Stream(device)
        self._graphs: dict[_Key, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self._runs: Counter[int] = Counter()
        self._host = HostState(step.score, step.optimizer)
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
        if self.fallback is not None or self._whole not in (None, size):
            return self._step.on_device(size)
        if self._runs[size] < _WARM_UPS:
            return self._warm_up(size)
        assert self._rates is not None
        self._rates.follow()
        key = (size, self._options(self._rates))
        recorded = self._graphs.get(key) or self._record(key, self._rates)
        if recorded is None:
            return self._step.on_device(size)
        graph, sums = recorded
        graph.replay()
        return sums

    def _warm_up(self, size: int) -> Tensor:
        self._runs[size] += 1
        if self._rates is None:
            make_capturable(self._step.optimizer)
            self._rates = RecordedRates(self._step.optimizer, self._device)
        if self._runs[size] < _WARM_UPS:
            return self._step.on_device(size)
        before = self._host.seen()
        sums = self._step.on_device(size)
        changed = first_change(before, self._host.seen())
        if changed is not None:
            self._give_up(f"{changed} changes from step to step, which a recording would not see")
        return sums

    def _record(self, key: _Key, rates: RecordedRates) -> tuple[torch.cuda.CUDAGraph, Tensor] | None:
        size = key[0]
        for stale in [each for each in self._graphs if each[0] == size]:
            del self._graphs[stale]
        noise_before = self._step.noise.get_state().clone()
        graph = torch.cuda.CUDAGraph()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # newer versions of torch do it by themselves, and say so
                graph.register_generator_state(self._step.noise)
            self._step.optimizer.zero_grad(set_to_none=True)
            recording = torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local")
            with rates.in_place(), recording:
                sums = self._step.on_device(size)
        except Exception as error:  # whatever a model does that cannot be recorded
            cause = _root(error)
            if isinstance(cause, torch.OutOfMemoryError):
                raise cause from None
            self._renew_noise(noise_before)
            self._give_up(f"{type(cause).__name__}: {str(cause).splitlines()[0] if str(cause) else ''}")
            return None
        self._graphs[key] = (graph, sums)
        return self._graphs[key]

    def _give_up(self, reason: str) -> None:
        """Go on eagerly."""
        self.fallback = reason
        self._graphs.clear()
        _log.warning(
            "Steps cannot be recorded as a CUDA graph (%s); training goes on without, which is slower. "
            "trainer.step=eager does not try.",
            reason,
        )

    def _renew_noise(self, state: Tensor) -> None:
        """Put the noise back to where it was: a broken recording leaves its generator unusable."""
        torch.cuda.synchronize(self._device)
        noise = ShardedGenerator(self._device)
        noise.set_state(state)
        self._step.noise = noise

    def _options(self, rates: RecordedRates) -> tuple[str, ...]:
        return tuple(
            repr(value)
            for group in self._step.optimizer.param_groups
            for name, value in group.items()
            if name != "params" and not isinstance(value, Tensor) and not (name == "lr" and rates.covers(group))
        )


def _root(error: BaseException) -> BaseException:
    """What went wrong first: leaving a broken recording raises an error of its own on top."""
    while error.__context__ is not None:
        error = error.__context__
    return error


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
