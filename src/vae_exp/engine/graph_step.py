"""A training step recorded once as a CUDA graph and replayed: the host launches one thing instead of a hundred."""

import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from vae_exp.distributions.sampling import ShardedGenerator
from vae_exp.engine.training_step import TrainingStep

_log = logging.getLogger(__name__)
_WARM_UPS = 3
_Key = tuple[int, tuple[str, ...]]


class GraphStep:
    """Runs a training step eagerly until it is warm, then records it and replays the recording.

    There is a recording for each batch size (the last batch of an epoch may be short), and a new one whenever a
    hyperparameter of the optimiser has changed, because a recording holds them as constants. The warm-up steps
    are real steps of the training: recording runs nothing, so no state has to be put back.

    A model that waits for the device, draws from a generator that the recording does not know, or changes what
    it does from step to step cannot be recorded; it then goes on eagerly, and a warning says why.

    Args:
        step: What is recorded.
        device: A CUDA device.
    """

    def __init__(self, step: TrainingStep, device: torch.device) -> None:
        self.fallback: str | None = None
        self._step = step
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._graphs: dict[_Key, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self._runs: Counter[int] = Counter()

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
        if self.fallback is not None:
            return self._step.on_device(size)
        if self._runs[size] < _WARM_UPS:
            self._runs[size] += 1
            if self._runs[size] == 1:
                make_capturable(self._step.optimizer)
            return self._step.on_device(size)
        key = (size, self._hyperparameters())
        recorded = self._graphs.get(key) or self._record(key)
        if recorded is None:
            return self._step.on_device(size)
        graph, sums = recorded
        graph.replay()
        return sums

    def _record(self, key: _Key) -> tuple[torch.cuda.CUDAGraph, Tensor] | None:
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
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                sums = self._step.on_device(size)
        except Exception as error:  # whatever a model does that cannot be recorded
            self._give_up(error, noise_before)
            return None
        self._graphs[key] = (graph, sums)
        return self._graphs[key]

    def _give_up(self, error: Exception, noise_before: Tensor) -> None:
        """Go on eagerly, with the noise as it was: a broken recording leaves its generator unusable."""
        self.fallback = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        self._graphs.clear()
        torch.cuda.synchronize(self._device)
        noise = ShardedGenerator(self._device)
        noise.set_state(noise_before)
        self._step.noise = noise
        _log.warning(
            "trainer.step=graph: this model cannot be recorded as a CUDA graph (%s); training goes on with "
            "trainer.step=eager.",
            self.fallback,
        )

    def _hyperparameters(self) -> tuple[str, ...]:
        groups = self._step.optimizer.param_groups
        return tuple(
            repr(value)
            for group in groups
            for name, value in group.items()
            if name != "params" and not isinstance(value, Tensor)
        )


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
