"""Capture and replay on a stand-in for `torch.cuda`, which runs captured work at each replay."""

import gc
import random
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from math import nan
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

from tests.builders import (
    CPU,
    RecordingTracker,
    SignalAtStep,
    adam,
    fit,
    grey_images,
    halving,
    make_train_step,
    make_trainer,
    small_vae,
    weights,
)
from vae_exp.engine import cuda_graph
from vae_exp.engine.checkpoint import load_checkpoint
from vae_exp.engine.cuda_graph import CUDAGraphStep, first_difference, host_state, make_capturable
from vae_exp.engine.train_step import ModelWithLoss, TrainStep
from vae_exp.engine.trainer import Trainer
from vae_exp.errors import Interrupted
from vae_exp.objective.beta_vae import BetaVAE
from vae_exp.objective.elbo import ELBO
from vae_exp.objective.schedules import Linear

WARM_UPS = ["eager"] * 3


@dataclass(eq=False)
class FakeGraph:
    work: list[Callable[[], None]] = field(default_factory=list)
    generators: list[torch.Generator] = field(default_factory=list)

    def register_generator_state(self, generator: torch.Generator) -> None:
        if type(generator) is not torch.Generator:  # as torch before 2.14
            raise TypeError(f"expected a Generator, but got {type(generator).__name__}")
        self.generators.append(generator)

    def reset(self) -> None:
        self.work.clear()

    def replay(self) -> None:
        for act in self.work:
            act()


@dataclass
class FakeCuda:
    """Counts captures and makes them fail with `refusal`."""

    capturing: FakeGraph | None = None
    captured: int = 0
    refusal: Exception | type[Exception] | None = None
    order: list[str] = field(default_factory=list)
    graphs: "weakref.WeakSet[FakeGraph]" = field(default_factory=weakref.WeakSet)

    def new_graph(self) -> FakeGraph:
        graph = FakeGraph()
        self.graphs.add(graph)
        return graph

    @contextmanager
    def graph(self, graph: FakeGraph, pool: object, stream: object, capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local"  # another thread may gather the next batch meanwhile
        self.captured += 1
        if self.refusal is not None:
            for generator in graph.generators:
                torch.randn(3, generator=generator)  # a broken capture leaves its generator anywhere
            raise self.refusal() if isinstance(self.refusal, type) else self.refusal
        self.capturing = graph
        yield
        self.capturing = None


@pytest.fixture(params=[False, True], ids=["torch 2.11", "torch 2.14"])
def cuda(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    """Before torch 2.14, and since, when graphs register generators by themselves."""
    fake = FakeCuda()
    monkeypatch.setattr(cuda_graph, "_REGISTERS_GENERATORS", request.param)
    for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
        monkeypatch.setattr(torch._C, name, lambda *_, name=name: fake.order.append(name), raising=False)
    for name, value in {
        "default_generators": {None: MagicMock()},
        "graph_pool_handle": lambda: (0, 1),
        "CUDAGraph": fake.new_graph,
        "graph": fake.graph,
        "Stream": lambda device: object(),
        "synchronize": lambda device: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    cuda_graph._capture_stream.cache_clear()
    yield fake
    cuda_graph._capture_stream.cache_clear()


class FakeStep:
    """A training step that records each run with its batch size and learning rate."""

    def __init__(
        self, cuda: FakeCuda, optimizer: Optimizer | None = None, loss: Callable[[], Any] = lambda: None
    ) -> None:
        self.optimizer = optimizer or SGD([nn.Parameter(torch.ones(2))], lr=0.1, momentum=0.9)
        self.parameters = self.optimizer.param_groups[0]["params"]
        self.model_with_loss = nn.Module()
        self.model_with_loss.loss = loss
        self.generator = torch.Generator()
        self.runs: list[tuple[str, int, float]] = []
        self._cuda = cuda

    def __call__(self, size: int) -> Tensor:
        lr = self.optimizer.param_groups[0]["lr"]
        self.model_with_loss.loss()
        if self._cuda.capturing is None:
            self.runs.append(("eager", size, float(lr)))
        else:
            self._cuda.capturing.work.append(lambda: self.runs.append(("replay", size, float(lr))))
        return torch.full((3,), float(size))


def kinds(step: FakeStep, size: int = 4) -> list[str]:
    return [kind for kind, run_size, _ in step.runs if run_size == size]


def run(step: Any, calls: int = 6) -> CUDAGraphStep:
    graph_step = CUDAGraphStep(step, CPU, 4)
    for _ in range(calls):
        graph_step(4)
    return graph_step


# Captures


def test_full_batches_are_captured_after_warm_ups_that_are_real_steps(cuda: FakeCuda):
    step = FakeStep(cuda)
    graph_step, sizes = CUDAGraphStep(step, CPU, 4), [4, 4, 3] * 6
    for calls, size in enumerate(sizes, start=1):
        assert graph_step(size).tolist() == [size] * 3
        assert len(step.runs) == calls
    assert [size for _, size, _ in step.runs] == sizes
    assert kinds(step) == WARM_UPS + ["replay"] * 9
    assert kinds(step, 3) == ["eager"] * 6
    assert cuda.captured == 1


def test_a_step_is_captured_again_when_an_option_changes_and_only_then(cuda: FakeCuda):
    step = FakeStep(cuda)
    graph_step, group = CUDAGraphStep(step, CPU, 4), step.optimizer.param_groups[0]
    rates = (0.1, 0.1, 0.05, 0.05, 0.025)
    for lr in rates:
        group["lr"] = lr
        for size in (4, 4, 4, 3, 3, 3):
            graph_step(size)
    assert [lr for _, _, lr in step.runs] == [lr for lr in rates for _ in range(6)]
    assert cuda.captured == 3
    group["momentum"] = 0.5
    graph_step(4)
    assert cuda.captured == 4
    group["lr"] = torch.tensor(0.1)  # read from the device
    for _ in range(3):
        graph_step(4)
        group["lr"].mul_(0.5)
    assert cuda.captured == 5


def _fused(kind: type[Optimizer]) -> Callable[..., Optimizer]:
    return partial(kind, fused=True)


@pytest.mark.parametrize(
    "kind", [Adam, AdamW, RMSprop, _fused(Adam), _fused(SGD), _fused(Adagrad)], ids=lambda kind: str(kind)[-40:]
)
def test_all_steps_read_the_learning_rate_in_one_precision_and_a_schedule_needs_no_new_capture(
    cuda: FakeCuda, kind: Callable[..., Optimizer]
):
    """A warm-up step of a resumed run must round as the replay of the run that was not interrupted."""
    step = FakeStep(cuda, kind([nn.Parameter(torch.ones(2))], lr=0.3))
    graph_step, group = CUDAGraphStep(step, CPU, 4), step.optimizer.param_groups[0]
    rates, sizes = [0.3, 0.3, 0.1, 0.1, 0.7, 0.7, 0.3, 0.3], [4, 4, 4, 4, 4, 4, 3, 4]
    for lr, size in zip(rates, sizes, strict=True):
        group["lr"] = lr
        graph_step(size)
        assert group["lr"] == lr
        assert isinstance(group["lr"], float)
    assert [lr for _, _, lr in step.runs] == torch.tensor(rates).tolist()
    assert kinds(step) == WARM_UPS + ["replay"] * 4
    assert kinds(step, 3) == ["eager"]
    assert cuda.captured == 1


@pytest.mark.parametrize("kind", [SGD, Adagrad, partial(RMSprop, foreach=False)])
def test_kernels_that_would_wait_for_the_learning_rate_get_a_number(
    cuda: FakeCuda, kind: Callable[..., Optimizer]
):
    step = FakeStep(cuda, kind([nn.Parameter(torch.ones(2))], lr=0.3))
    run(step)
    assert [lr for _, _, lr in step.runs] == [0.3] * 6


def test_a_capture_registers_the_generator_where_torch_does_not(cuda: FakeCuda):
    step = FakeStep(cuda)
    graph_step = run(step)  # keeps its graphs
    assert graph_step.fallback is None
    assert graph_step._stream is run(step)._stream  # cuBLAS keeps a workspace per stream until the process ends
    registered = [] if cuda_graph._REGISTERS_GENERATORS else [step.generator]
    assert [graph.generators for graph in cuda.graphs] == [registered]


# Steps that cannot be captured


def test_a_step_that_cannot_be_captured_continues_eagerly_and_says_why(cuda: FakeCuda, caplog):
    step, message = FakeStep(cuda), "operation not permitted when stream is capturing"
    cuda.refusal = RuntimeError(f"{message}\nCompile with TORCH_USE_CUDA_DSA")
    graph_step = run(step)
    assert kinds(step) == ["eager"] * 6
    assert cuda.captured == 1
    assert graph_step.fallback == f"RuntimeError: {message}"
    assert f"cannot be captured as a CUDA graph (RuntimeError: {message})" in caplog.text
    assert "trainer.execution=eager" in caplog.text


@pytest.mark.parametrize("refusal", [RuntimeError, torch.OutOfMemoryError])
def test_a_failed_capture_leaves_nothing_behind_and_lack_of_memory_raises(
    cuda: FakeCuda, refusal: type[Exception]
):
    """Torch before 2.14 leaves allocator and generators capturing, and the next capture of the process fails."""
    cuda.refusal = refusal
    graph_step = run(FakeStep(cuda), calls=3)
    gc.disable()
    try:
        with suppress(RuntimeError) if refusal is RuntimeError else pytest.raises(refusal):
            graph_step(4)
        assert not cuda.graphs, "a cycle holds the half-made graph and its activations"
    finally:
        gc.enable()
    expected = [] if cuda_graph._REGISTERS_GENERATORS else ["_cuda_endAllocateToPool", "_cuda_releasePool"]
    assert cuda.order == expected


def test_after_a_failed_capture_training_is_that_of_eager_steps(cuda: FakeCuda):
    vae, other = small_vae(), small_vae()
    step, eager = (
        make_train_step(ModelWithLoss(trained, ELBO()), SGD(trained.parameters(), lr=0.1), grey_images(7), [1] * 7)
        for trained in (vae, other)
    )
    cuda.refusal = RuntimeError("no")
    graph_step = CUDAGraphStep(step, CPU, 1)
    for _ in range(7):
        assert torch.equal(graph_step(1), eager(1))
    assert graph_step.fallback
    assert torch.equal(weights(vae), weights(other))
    assert torch.equal(step.generator.get_state(), eager.generator.get_state())


def test_the_reason_is_the_first_error(cuda: FakeCuda):
    cuda.refusal = RuntimeError("capture_end: invalidated")
    cuda.refusal.__context__ = ValueError("the loss is read")
    assert run(FakeStep(cuda)).fallback == "ValueError: the loss is read"


class Changing:
    """Stands for a loss that changes something on the host in every call."""

    def __init__(self, change: Callable[["Changing"], Any]) -> None:
        self.calls, self.items, self.inner, self._change = 0, [1], SimpleNamespace(count=0), change

    def __call__(self) -> None:
        self._change(self)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda loss: setattr(loss, "calls", loss.calls + 1), "loss.calls"),
        (lambda loss: setattr(loss, "calls", nan if isinstance(loss.calls, int) else 0), "loss.calls"),
        (lambda loss: loss.items.append(1), "the length of loss.items"),
        (lambda loss: setattr(loss.inner, "count", loss.inner.count + 1), "loss.inner.count"),
        (lambda loss: random.random(), "the random state of Python"),
        (lambda loss: np.random.random(), "the random state of numpy"),
        (lambda loss: torch.rand(1), "the random state of torch on the CPU"),
        (lambda loss: setattr(loss, "calls", nan), None),
        (lambda loss: setattr(loss, "calls", 1), None),
    ],
)
def test_a_step_that_changes_the_host_is_not_captured(cuda: FakeCuda, change: Any, name: str | None):
    graph_step = run(FakeStep(cuda, loss=Changing(change)))
    reason = f"{name} changes from step to step, which a graph would not see"
    assert graph_step.fallback == (None if name is None else reason)
    assert cuda.captured == (name is None)


def test_an_optimizer_that_counts_its_steps_on_the_host_is_not_captured(cuda: FakeCuda):
    step = FakeStep(cuda)
    state = step.optimizer.state[step.optimizer.param_groups[0]["params"][0]]
    state["step"] = 0
    step.model_with_loss.loss = lambda: state.update(step=state["step"] + 1)
    assert run(step).fallback.startswith("optimizer.state[0]['step'] changes from step to step")


def test_attributes_of_modules_are_named_by_their_path_and_those_of_the_compiler_ignored():
    vae = small_vae()
    compiled, optimizer = SimpleNamespace(_orig_mod=ModelWithLoss(vae, ELBO()), counter=0), adam(vae.parameters())
    before = host_state(compiled, optimizer)
    compiled.counter = 1
    assert first_difference(before, host_state(compiled, optimizer)) is None
    vae.encoder.calls = 1
    assert first_difference(before, host_state(compiled, optimizer)) == "vae.encoder.calls"


# Several steps in a graph


class CapturableStep:
    """A training step whose captured work runs at each replay, with gradients and rates of the capture."""

    def __init__(self, cuda: FakeCuda, step: TrainStep) -> None:
        self._cuda, self._step = cuda, step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._step, name)

    def __call__(self, size: int) -> Tensor:
        if self._cuda.capturing is None:
            return self._step(size)
        sums, parameters, groups = torch.zeros(3), self._step.parameters, self._step.optimizer.param_groups
        captured = [torch.zeros_like(parameter) for parameter in parameters], [group["lr"] for group in groups]
        for parameter, gradient in zip(parameters, captured[0], strict=True):
            parameter.grad = gradient

        def work() -> None:
            held = [parameter.grad for parameter in parameters], [group["lr"] for group in groups]
            for group, rate in zip(groups, captured[1], strict=True):
                group["lr"] = rate
            sums.copy_(self._step(size))
            for group, rate in zip(groups, held[1], strict=True):
                group["lr"] = rate
            for parameter, gradient, before in zip(parameters, captured[0], held[0], strict=True):
                gradient.copy_(parameter.grad)
                parameter.grad = before

        self._cuda.capturing.work.append(work)
        return sums


@pytest.fixture
def make(cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Trainer]:
    """Makes a trainer whose full batches of four are captured."""
    monkeypatch.setattr(CUDAGraphStep, "on_capture_stream", lambda step: nullcontext())

    def make(name: str, steps_per_graph: int, count: int = 35, **settings: Any) -> Trainer:
        images = settings.pop("train", grey_images(count))
        trainer = make_trainer(tmp_path / name, train=images, trackers=[RecordingTracker()], **settings)
        trainer._step = CUDAGraphStep(CapturableStep(cuda, trainer.train_step), CPU, 4)
        trainer.steps_per_graph = trainer._choose_steps_per_graph(steps_per_graph)
        return trainer

    return make


def everything(trainer: Trainer) -> dict[str, Any]:
    """What a run leaves behind, without its times."""
    state = trainer.state_dict()
    tensors = [
        *state["vae"].values(),
        *(state["average"] or {}).values(),
        *(value for values in state["optimizer"]["state"].values() for value in values.values()),
        *(state["generators"][name] for name in ("noise", "shuffle")),
    ]
    [tracker] = trainer._trackers
    return {
        "tensors": [torch.as_tensor(tensor).double().tolist() for tensor in tensors],
        "progress": (state["epoch"], state["step"], state["batches"], state["grad_norm"]),
        "rows": tracker.rows(),
    }


OPTIMIZERS = {
    "Adam": partial(Adam, lr=0.02, fused=True),
    "SGD": partial(SGD, lr=0.001, momentum=0.9),
}


@pytest.mark.quick(4)
@pytest.mark.parametrize(("steps", "count"), [(3, 35), (5, 32)], ids=["a short last batch", "full batches alone"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_several_steps_in_a_graph_are_those_of_as_many_graphs_to_the_bit(
    cuda: FakeCuda, make: Any, name: str, steps: int, count: int
):
    """Eight full batches are an epoch: 3 + 3 + 1 + 1 or 5 + 1 + 1 + 1; the learning rate halves after it."""
    settings = {"count": count, "optimizer": OPTIMIZERS[name], "scheduler": halving, "ema_decay": 0.9, "epochs": 3}
    several = fit(make("several", steps, **settings))
    assert sorted(len(graph.work) for graph in cuda.graphs) == [1, steps]
    one, eager = fit(make("one", 1, **settings)), make("eager", 1, **settings)
    assert several._step.fallback is one._step.fallback is None
    assert everything(several) == everything(one)
    eager._step = eager.train_step
    if name == "SGD":  # Adam's rate is a float32 on the device
        assert everything(one) == everything(fit(eager))


@pytest.mark.parametrize(("signal_at", "stop"), [(2, 3), (8, 8), (9, 9), (11, 12), (16, 16)])
def test_a_run_of_several_steps_in_a_graph_resumes_within_an_epoch_to_the_bit(
    make: Any, tmp_path: Path, signal_at: int, stop: int
):
    """A signal is noticed at the end of a replay; a resumed run warms up where the whole one replays."""
    settings = {"optimizer": OPTIMIZERS["Adam"], "scheduler": halving}
    whole = fit(make("whole", 1, **settings))
    first = make("first", 3, **settings)
    with pytest.raises(Interrupted):
        fit(first, SignalAtStep(signal_at))
    assert first.state.global_step == stop
    resumed = make("first", 3, **settings)
    resumed.load_state_dict(load_checkpoint(tmp_path / "first" / "checkpoints" / "last.pt", CPU))
    fit(resumed)
    expected, rows = everything(whole), everything(resumed)
    assert rows.pop("rows")[-1] == expected.pop("rows")[-1]
    assert rows == expected


def test_several_steps_of_a_model_that_cannot_be_captured_are_eager(cuda: FakeCuda, make: Any):
    cuda.refusal = RuntimeError("no")
    three, one = (fit(make(str(steps), steps, optimizer=OPTIMIZERS["SGD"])) for steps in (3, 1))
    assert three._step.fallback == one._step.fallback == "RuntimeError: no"
    assert everything(three) == everything(one)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"train": grey_images(35).stream_to(CPU)}, "images are streamed, and copied before each step"),
        ({"loss": BetaVAE(Linear(0.0, 1.0, 5, "step"))}, "a schedule of the loss has unit=step"),
        ({"count": 11}, "an epoch has fewer full batches (2)"),
        ({"count": 12}, None),
        ({"loss": BetaVAE(Linear(0.0, 1.0, 5, "epoch"))}, None),
    ],
)
def test_steps_that_the_host_prepares_are_made_one_by_one(make: Any, caplog, settings: Any, reason: str | None):
    caplog.clear()
    trainer = make("run", 3, **settings)
    assert trainer.steps_per_graph == (3 if reason is None else 1)
    message = f"trainer.steps_per_graph=3 is not used: {reason}."
    assert (message in caplog.text) is (reason is not None)


# Optimizers


@pytest.mark.parametrize(("kind", "counts"), [(Adam, True), (partial(SGD, momentum=0.9), False)])
def test_optimizers_that_count_steps_count_them_on_the_device(kind: Callable[..., Optimizer], counts: bool):
    parameter = nn.Parameter(torch.ones(2))
    optimizer = kind([parameter], lr=0.1)
    parameter.grad = torch.ones(2)
    optimizer.step()
    make_capturable(optimizer)
    assert optimizer.param_groups[0].get("capturable", False) is counts
    [state] = optimizer.state.values()
    assert not counts or (state["step"].device, state["step"].item()) == (parameter.device, 1)
