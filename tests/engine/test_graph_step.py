import gc
import logging
import random
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from math import nan
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

from tests.builders import CPU, adam, small_vae, weights
from tests.engine.test_train_step import make_step
from vae_exp.engine import cuda_graph as graph_step_module
from vae_exp.engine.cuda_graph import CUDAGraphStep, HostStateSnapshot, first_difference, make_capturable
from vae_exp.engine.seeding import make_generator
from vae_exp.engine.train_step import ModelWithLoss
from vae_exp.objective.elbo import ELBO

WARM_UPS = 3


@dataclass
class FakeDefaultGenerator:
    """The default generator of a device; before torch 2.14 it stays in the state of a recording that failed."""

    recording: bool = False

    def clone_state(self) -> "FakeDefaultGenerator":
        return FakeDefaultGenerator()

    def graphsafe_set_state(self, other: "FakeDefaultGenerator") -> None:
        self.recording = other.recording


@dataclass
class FakeCuda:
    """What a graph step asks of `torch.cuda`: what is done while recording is kept, and done at each replay."""

    recording: "FakeGraph | None" = None
    recorded: int = 0
    refusal: Exception | Callable[[], Exception] | None = None
    order: list[str] = field(default_factory=list)
    graphs: "weakref.WeakSet[FakeGraph]" = field(default_factory=weakref.WeakSet)
    pools: set[tuple[int, int]] = field(default_factory=set)  # that the allocator still records into
    default: FakeDefaultGenerator = field(default_factory=FakeDefaultGenerator)

    def new_graph(self) -> "FakeGraph":
        self.graphs.add(made := FakeGraph())
        return made

    @contextmanager
    def graph(
        self, graph: "FakeGraph", pool: tuple[int, int], stream: "FakeStream", capture_error_mode: str
    ) -> Iterator[None]:
        assert capture_error_mode == "thread_local"  # another thread may gather the next batch meanwhile
        self.recorded += 1
        self.pools.add(pool)
        if self.refusal is not None:
            self.default.recording = True
            for each in graph.generators:
                torch.randn(3, generator=each)  # a broken recording leaves its generator anywhere
            raise self.refusal() if callable(self.refusal) else self.refusal
        self.recording = graph
        yield
        self.recording = None
        self.end_allocation(0, pool)

    def end_allocation(self, index: int, pool: tuple[int, int]) -> None:
        self.order.append("end allocation")
        if pool not in self.pools:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.pools.remove(pool)

    def release(self, index: int, pool: tuple[int, int]) -> None:
        self.order.append("release")

    @contextmanager
    def entered(self, what: str) -> Iterator[None]:
        self.order.append(f"enter {what}")
        yield
        self.order.append(f"leave {what}")


@dataclass
class FakeStream:
    cuda: FakeCuda
    name: str

    def wait_stream(self, other: "FakeStream") -> None:
        self.cuda.order.append(f"{self.name} waits for {other.name}")


@dataclass(eq=False)
class FakeGraph:
    work: list[Any] = field(default_factory=list)
    generators: list[torch.Generator] = field(default_factory=list)

    was_reset: bool = False

    def register_generator_state(self, used: torch.Generator) -> None:
        if type(used) is not torch.Generator:  # as torch before 2.14 has it
            raise TypeError(f"expected a Generator, but got {type(used).__name__}")
        self.generators.append(used)

    def reset(self) -> None:
        self.was_reset = True

    def replay(self) -> None:
        for each in self.work:
            each()


@pytest.fixture(params=[False, True], ids=["torch 2.11", "torch 2.14"])
def cuda(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    """As torch before 2.14 has it, and as later versions do, which register generators by themselves."""
    fake = FakeCuda()
    monkeypatch.setattr(graph_step_module, "_REGISTERS_GENERATORS", request.param)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", fake.end_allocation, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_releasePool", fake.release, raising=False)
    monkeypatch.setattr(torch.cuda, "default_generators", {None: fake.default, 0: fake.default})
    pools = ((0, number) for number in count(1))
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: next(pools))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", fake.new_graph)
    monkeypatch.setattr(torch.cuda, "graph", fake.graph)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: FakeStream(fake, "own"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: FakeStream(fake, "default"))
    monkeypatch.setattr(torch.cuda, "device", lambda device: fake.entered("device"))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: fake.entered(f"stream {stream.name}"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: fake.order.append("synchronize"))
    graph_step_module._capture_stream.cache_clear()
    yield fake
    graph_step_module._capture_stream.cache_clear()


class Holder(nn.Module):
    """Stands for a model with its loss."""

    def __init__(self, loss: Callable[[], Any]) -> None:
        super().__init__()
        self.loss = loss


class FakeStep:
    """A training step that says what it would do."""

    def __init__(self, cuda: FakeCuda, optimizer: Optimizer | None = None, loss: Any = None) -> None:
        self.optimizer = optimizer or SGD([nn.Parameter(torch.ones(2))], lr=0.1, momentum=0.9)
        self.model_with_loss = Holder(loss)
        self.generator = torch.Generator()
        self.done: list[tuple[str, int, float]] = []
        self._cuda = cuda

    def __call__(self, size: int) -> Tensor:
        lr = self.optimizer.param_groups[0]["lr"]
        if self.model_with_loss.loss is not None:
            self.model_with_loss.loss()
        if self._cuda.recording is None:
            self.done.append(("eager", size, float(lr)))
        else:
            self._cuda.recording.work.append(lambda: self.done.append(("replay", size, float(lr))))
        return torch.full((3,), float(size))


def kinds(step: FakeStep) -> list[str]:
    return [kind for kind, _, _ in step.done]


def test_warm_up_steps_are_real_ones_and_every_call_is_one_step(cuda: FakeCuda):
    step = FakeStep(cuda)
    graph_step = CUDAGraphStep(step, CPU)
    for call in range(1, 8):
        assert graph_step(4).tolist() == [4.0, 4.0, 4.0]
        assert len(step.done) == call
    assert kinds(step) == ["eager"] * WARM_UPS + ["replay"] * 4
    assert cuda.recorded == 1


def test_there_is_a_recording_for_each_batch_size(cuda: FakeCuda):
    step = FakeStep(cuda)
    graph_step = CUDAGraphStep(step, CPU)
    sizes = [4, 4, 3] * 6
    for size in sizes:
        assert graph_step(size)[0] == size
    assert [size for _, size, _ in step.done] == sizes
    assert cuda.recorded == 2
    assert [kind for kind, size, _ in step.done if size == 4] == ["eager"] * WARM_UPS + ["replay"] * 9
    assert [kind for kind, size, _ in step.done if size == 3] == ["eager"] * WARM_UPS + ["replay"] * 3


def test_it_is_recorded_again_when_a_hyperparameter_changes_and_only_then(cuda: FakeCuda):
    step = FakeStep(cuda)
    graph_step = CUDAGraphStep(step, CPU)
    group = step.optimizer.param_groups[0]
    for lr in (0.1, 0.1, 0.05, 0.05, 0.025):
        group["lr"] = lr
        for size in (4, 4, 4, 3, 3, 3):
            graph_step(size)
    assert [lr for _, _, lr in step.done] == [lr for lr in (0.1, 0.1, 0.05, 0.05, 0.025) for _ in range(6)]
    assert cuda.recorded == 2 * 3
    group["momentum"] = 0.5
    graph_step(4)
    assert cuda.recorded == 7
    assert kinds(step)[6:] == ["replay"] * (len(step.done) - 6)


def test_a_last_batch_that_is_short_is_not_recorded(cuda: FakeCuda):
    step = FakeStep(cuda)
    graph_step = CUDAGraphStep(step, CPU, full_batch_size=4)
    for size in [4, 4, 3] * 6:
        graph_step(size)
    assert [kind for kind, size, _ in step.done if size == 3] == ["eager"] * 6
    assert [kind for kind, size, _ in step.done if size == 4] == ["eager"] * WARM_UPS + ["replay"] * 9


def _fused(kind: type[Optimizer]) -> Callable[..., Optimizer]:
    return partial(kind, fused=True)


@pytest.mark.parametrize(
    "kind", [Adam, AdamW, RMSprop, _fused(Adam), _fused(SGD), _fused(Adagrad)], ids=lambda kind: str(kind)[-40:]
)
def test_all_steps_read_the_learning_rate_in_one_precision_and_a_schedule_needs_no_new_recording(
    cuda: FakeCuda, kind: Callable[..., Optimizer]
):
    """A warm-up step of a resumed run must round as the replay of the run that was not interrupted."""
    step = FakeStep(cuda, kind([nn.Parameter(torch.ones(2))], lr=0.3))
    graph_step, group = CUDAGraphStep(step, CPU, full_batch_size=4), step.optimizer.param_groups[0]
    rates, sizes = [0.3, 0.3, 0.1, 0.1, 0.7, 0.7, 0.3, 0.3], [4, 4, 4, 4, 4, 4, 3, 4]
    for lr, size in zip(rates, sizes, strict=True):
        group["lr"] = lr
        graph_step(size)
        assert group["lr"] == lr
        assert isinstance(group["lr"], float)
    assert [lr for _, _, lr in step.done] == torch.tensor(rates).tolist()
    assert kinds(step) == ["eager"] * WARM_UPS + ["replay"] * 3 + ["eager", "replay"]
    assert cuda.recorded == 1


@pytest.mark.parametrize("kind", [SGD, Adagrad, partial(RMSprop, foreach=False)])
def test_kernels_that_would_wait_for_the_learning_rate_get_a_number(
    cuda: FakeCuda, kind: Callable[..., Optimizer]
):
    step = FakeStep(cuda, kind([nn.Parameter(torch.ones(2))], lr=0.3))
    graph_step = CUDAGraphStep(step, CPU)
    for _ in range(5):
        graph_step(4)
    assert [lr for _, _, lr in step.done] == [0.3] * 5


def test_a_hyperparameter_on_the_device_needs_no_new_recording(cuda: FakeCuda):
    step = FakeStep(cuda)
    lr = step.optimizer.param_groups[0]["lr"] = torch.tensor(0.1)
    graph_step = CUDAGraphStep(step, CPU)
    for _ in range(6):
        graph_step(4)
        lr.mul_(0.5)
    assert cuda.recorded == 1


def test_a_recording_knows_the_generator_of_the_noise(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch):
    """Torch before 2.14 must be told, and takes no subclass; later versions call telling it deprecated."""
    step, graphs = FakeStep(cuda), []
    step.generator = make_generator(0, "noise", CPU)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graphs.append(FakeGraph()) or graphs[-1])
    graph_step = CUDAGraphStep(step, CPU)
    for _ in range(5):
        graph_step(4)
    assert graph_step.fallback is None
    told = [] if graph_step_module._REGISTERS_GENERATORS else [step.generator]
    assert [graph.generators for graph in graphs] == [told]


def test_all_recordings_of_a_process_share_a_stream(cuda: FakeCuda):
    """cuBLAS keeps a workspace per stream until the process ends."""
    assert CUDAGraphStep(FakeStep(cuda), CPU)._stream is CUDAGraphStep(FakeStep(cuda), CPU)._stream


# What cannot be recorded


def test_a_step_that_cannot_be_recorded_goes_on_eagerly_and_says_why(cuda: FakeCuda, caplog):
    step = FakeStep(cuda)
    cuda.refusal = RuntimeError(
        "operation not permitted when stream is capturing\nCompile with TORCH_USE_CUDA_DSA"
    )
    graph_step = CUDAGraphStep(step, CPU)
    with caplog.at_level(logging.WARNING):
        for size in (4, 4, 4, 4, 3, 3, 3, 3, 4):
            graph_step(size)
    assert kinds(step) == ["eager"] * 9
    assert cuda.recorded == 1
    assert graph_step.fallback == "RuntimeError: operation not permitted when stream is capturing"
    [record] = caplog.records
    assert "cannot be captured as a CUDA graph" in record.getMessage()
    assert graph_step.fallback in record.getMessage()
    assert "trainer.step=eager" in record.getMessage()


@pytest.mark.parametrize("refusal", [RuntimeError, torch.OutOfMemoryError])
def test_a_recording_that_failed_leaves_nothing_behind(cuda: FakeCuda, refusal: type[Exception]):
    """Torch before 2.14 leaves allocator and generators recording, and the next recording of the process fails."""
    cuda.refusal = refusal
    graph_step = CUDAGraphStep(FakeStep(cuda), CPU)
    for _ in range(3):
        graph_step(4)
    gc.disable()
    try:
        with suppress(torch.OutOfMemoryError):
            graph_step(4)
        assert not cuda.graphs, "a cycle holds the half-made recording and its activations"
    finally:
        gc.enable()
    if not graph_step_module._REGISTERS_GENERATORS:
        assert not cuda.pools
        assert cuda.order[-2:] == ["end allocation", "release"]
        assert not cuda.default.recording


def test_an_error_without_words_is_told_by_its_kind(cuda: FakeCuda):
    cuda.refusal = NotImplementedError()
    graph_step = CUDAGraphStep(FakeStep(cuda), CPU)
    for _ in range(4):
        graph_step(4)
    assert graph_step.fallback.startswith("NotImplementedError")


def test_after_a_recording_has_failed_training_is_that_of_eager_steps(cuda: FakeCuda):
    """The noise is that which would have come, and no step is lost or made twice."""
    vae, alone = small_vae(), small_vae()
    step, eager = (make_step(ModelWithLoss(each, ELBO()), each, [1] * 7) for each in (vae, alone))
    cuda.refusal = RuntimeError("no")
    graph_step = CUDAGraphStep(step, CPU)
    for _ in range(7):
        assert torch.equal(graph_step(1), eager(1))
    assert graph_step.fallback
    assert torch.equal(weights(vae), weights(alone))
    assert torch.equal(step.generator.get_state(), eager.generator.get_state())


def test_the_reason_is_what_went_wrong_first(cuda: FakeCuda):
    try:
        try:
            raise ValueError("the loss is read")
        finally:
            raise RuntimeError("capture_end: invalidated")
    except RuntimeError as error:
        cuda.refusal = error
    graph_step = CUDAGraphStep(FakeStep(cuda), CPU)
    for _ in range(4):
        graph_step(4)
    assert graph_step.fallback == "ValueError: the loss is read"


def test_memory_that_runs_out_while_recording_is_told_as_such(cuda: FakeCuda):
    cuda.refusal = torch.OutOfMemoryError("CUDA out of memory")
    graph_step = CUDAGraphStep(FakeStep(cuda), CPU)
    for _ in range(3):
        graph_step(4)
    with pytest.raises(torch.OutOfMemoryError):
        graph_step(4)
    assert graph_step.fallback is None


class Changing:
    """Stands for a loss that changes something on the host in every call."""

    def __init__(self, change: Callable[["Changing"], Any]) -> None:
        self.calls, self.kept, self.inner, self._change = 0, [1], SimpleNamespace(count=0), change

    def __call__(self) -> None:
        self._change(self)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda loss: setattr(loss, "calls", loss.calls + 1), "loss.calls"),
        (lambda loss: loss.kept.append(1), "the length of loss.kept"),
        (lambda loss: setattr(loss.inner, "count", loss.inner.count + 1), "loss.inner.count"),
        (lambda loss: random.random(), "the random state of Python"),
        (lambda loss: np.random.random(), "the random state of numpy"),
        (lambda loss: torch.rand(1), "the random state of torch on the CPU"),
        (lambda loss: setattr(loss, "calls", nan if isinstance(loss.calls, int) else 0), "loss.calls"),
    ],
)
def test_what_changes_on_the_host_is_not_recorded(cuda: FakeCuda, change: Callable[[Changing], Any], told: str):
    step = FakeStep(cuda, loss=Changing(change))
    graph_step = CUDAGraphStep(step, CPU)
    for _ in range(6):
        graph_step(4)
    assert kinds(step) == ["eager"] * 6
    assert cuda.recorded == 0
    assert graph_step.fallback == f"{told} changes from step to step, which a graph would not see"


def test_a_value_that_is_no_number_does_not_change(cuda: FakeCuda):
    step = FakeStep(cuda, loss=Changing(lambda loss: setattr(loss, "calls", float("nan"))))
    graph_step = CUDAGraphStep(step, CPU)
    for _ in range(6):
        graph_step(4)
    assert graph_step.fallback is None


def test_what_changes_once_only_is_recorded(cuda: FakeCuda):
    step = FakeStep(cuda, loss=Changing(lambda loss: setattr(loss, "calls", 1)))
    graph_step = CUDAGraphStep(step, CPU)
    for _ in range(6):
        graph_step(4)
    assert graph_step.fallback is None
    assert cuda.recorded == 1


def test_an_optimiser_that_counts_its_steps_on_the_host_is_not_recorded(cuda: FakeCuda):
    step = FakeStep(cuda)
    state = step.optimizer.state[step.optimizer.param_groups[0]["params"][0]]
    state["step"] = 0
    step.model_with_loss.loss = lambda: state.update(step=state["step"] + 1)
    graph_step = CUDAGraphStep(step, CPU)
    for _ in range(4):
        graph_step(4)
    assert graph_step.fallback.startswith("optimizer.state[0]['step'] changes from step to step")


def test_the_attributes_of_a_module_are_named_by_their_place():
    vae = small_vae()
    host = HostStateSnapshot(ModelWithLoss(vae, ELBO()), adam(vae.parameters()))
    before = host.take()
    assert first_difference(before, host.take()) is None
    vae.encoder.calls = 1
    assert first_difference(before, host.take()) == "vae.encoder.calls"


def test_what_the_compiler_keeps_is_not_looked_at():
    vae = small_vae()
    compiled = SimpleNamespace(_orig_mod=vae, counter=0)
    host = HostStateSnapshot(compiled, adam(vae.parameters()))
    before = host.take()
    compiled.counter = 1
    assert first_difference(before, host.take()) is None


# The stream


def test_everything_is_ordered_on_the_stream_of_the_recordings(cuda: FakeCuda):
    with CUDAGraphStep(FakeStep(cuda), CPU).on_capture_stream():
        cuda.order.append("steps")
    assert cuda.order == [
        "enter device",
        "own waits for default",
        "enter stream own",
        "steps",
        "leave stream own",
        "default waits for own",
        "leave device",
    ]


def test_what_follows_an_interruption_waits_for_the_steps_too(cuda: FakeCuda):
    with pytest.raises(KeyError), CUDAGraphStep(FakeStep(cuda), CPU).on_capture_stream():
        raise KeyError
    assert "default waits for own" in cuda.order


# Optimisers


def test_adam_counts_its_steps_on_the_device_and_updates_as_before():
    optimizer, parameter = _stepped_adam()
    make_capturable(optimizer)
    assert optimizer.param_groups[0]["capturable"] is True
    [state] = optimizer.state.values()
    assert state["step"].device == parameter.device
    assert state["step"].item() == 1


def test_optimisers_that_count_nothing_are_left_alone():
    parameter = nn.Parameter(torch.ones(2))
    optimizer = SGD([parameter], lr=0.1, momentum=0.9)
    parameter.grad = torch.ones(2)
    optimizer.step()
    make_capturable(optimizer)
    assert "capturable" not in optimizer.param_groups[0]


def _stepped_adam() -> tuple[Adam, nn.Parameter]:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = Adam([parameter], lr=0.1)
    parameter.grad = torch.ones(2)
    optimizer.step()
    return optimizer, parameter
