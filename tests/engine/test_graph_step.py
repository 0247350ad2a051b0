import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import StepLR

from tests.engine.runs import CPU, adam, fit, grey_images, make_trainer, small_vae, weights
from tests.engine.test_training_step import make_step
from vae_exp.data.images import ImageSet
from vae_exp.distributions.sampling import ShardedGenerator
from vae_exp.engine.checkpoint import load_checkpoint
from vae_exp.engine.determinism import generator
from vae_exp.engine.graph_step import GraphStep, make_capturable
from vae_exp.engine.host_state import HostState, first_change
from vae_exp.engine.trainer import Trainer
from vae_exp.engine.training_step import Scoring
from vae_exp.model.vae import VAE
from vae_exp.objective.elbo import ELBO
from vae_exp.objective.loss_terms import LossTerms

WARM_UPS = 3


@dataclass
class FakeCuda:
    """What a graph step asks of `torch.cuda`: what is done while recording is kept, and done at each replay."""

    recording: "FakeGraph | None" = None
    recorded: int = 0
    refusal: Exception | None = None
    order: list[str] = field(default_factory=list)

    @contextmanager
    def graph(self, graph: "FakeGraph", stream: "FakeStream", capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local"  # another thread may gather the next batch meanwhile
        self.recorded += 1
        assert graph.generators
        if self.refusal is not None:
            for each in graph.generators:
                torch.randn(3, generator=each)  # a broken recording leaves its generator anywhere
            raise self.refusal
        self.recording = graph
        yield
        self.recording = None

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


@dataclass
class FakeGraph:
    work: list[Any] = field(default_factory=list)
    generators: list[torch.Generator] = field(default_factory=list)

    def register_generator_state(self, used: torch.Generator) -> None:
        self.generators.append(used)

    def replay(self) -> None:
        for each in self.work:
            each()


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "graph", fake.graph)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: FakeStream(fake, "own"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: FakeStream(fake, "default"))
    monkeypatch.setattr(torch.cuda, "device", lambda device: fake.entered("device"))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: fake.entered(f"stream {stream.name}"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: fake.order.append("synchronize"))
    return fake


class FakeStep:
    """A training step that says what it would do; its feed counts what the host prepares."""

    def __init__(self, cuda: FakeCuda, optimizer: Optimizer | None = None, score: Any = None) -> None:
        self.optimizer = optimizer or SGD([nn.Parameter(torch.ones(2))], lr=0.1, momentum=0.9)
        self.score = score
        self.noise = ShardedGenerator()
        self.feed = self
        self.done: list[tuple[str, int, float]] = []
        self.prepared = 0
        self._cuda = cuda

    def prepare(self) -> None:
        self.prepared += 1

    def on_device(self, size: int) -> Tensor:
        lr = self.optimizer.param_groups[0]["lr"]
        if self.score is not None:
            self.score()
        if self._cuda.recording is None:
            self.done.append(("eager", size, float(lr)))
        else:
            self._cuda.recording.work.append(lambda: self.done.append(("replay", size, float(lr))))
        return torch.full((3,), float(size))


def kinds(step: FakeStep) -> list[str]:
    return [kind for kind, _, _ in step.done]


def test_warm_up_steps_are_real_ones_and_every_call_is_one_step(cuda: FakeCuda):
    step = FakeStep(cuda)
    graph_step = GraphStep(step, CPU)
    for call in range(1, 8):
        assert graph_step(4).tolist() == [4.0, 4.0, 4.0]
        assert len(step.done) == step.prepared == call
    assert kinds(step) == ["eager"] * WARM_UPS + ["replay"] * 4
    assert cuda.recorded == 1


def test_there_is_a_recording_for_each_batch_size(cuda: FakeCuda):
    step = FakeStep(cuda)
    graph_step = GraphStep(step, CPU)
    sizes = [4, 4, 3] * 6
    for size in sizes:
        assert graph_step(size)[0] == size
    assert [size for _, size, _ in step.done] == sizes
    assert cuda.recorded == 2
    assert [kind for kind, size, _ in step.done if size == 4] == ["eager"] * WARM_UPS + ["replay"] * 9
    assert [kind for kind, size, _ in step.done if size == 3] == ["eager"] * WARM_UPS + ["replay"] * 3


def test_it_is_recorded_again_when_a_hyperparameter_changes_and_only_then(cuda: FakeCuda):
    step = FakeStep(cuda)
    graph_step = GraphStep(step, CPU)
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
    graph_step = GraphStep(step, CPU, whole=4)
    for size in [4, 4, 3] * 6:
        graph_step(size)
    assert [kind for kind, size, _ in step.done if size == 3] == ["eager"] * 6
    assert [kind for kind, size, _ in step.done if size == 4] == ["eager"] * WARM_UPS + ["replay"] * 9


@pytest.mark.parametrize("kind", [Adam, AdamW])
def test_a_schedule_of_the_learning_rate_needs_no_new_recording_of_adam(cuda: FakeCuda, kind: type[Optimizer]):
    step = FakeStep(cuda, kind([nn.Parameter(torch.ones(2))], lr=0.5))
    graph_step, group = GraphStep(step, CPU), step.optimizer.param_groups[0]
    rates = [0.5, 0.5, 0.25, 0.25, 0.125, 0.125, 0.5]
    for lr in rates:
        group["lr"] = lr
        graph_step(4)
        assert isinstance(group["lr"], float)
    assert [lr for _, _, lr in step.done] == rates
    assert kinds(step) == ["eager"] * WARM_UPS + ["replay"] * 4
    assert cuda.recorded == 1


def test_a_hyperparameter_on_the_device_needs_no_new_recording(cuda: FakeCuda):
    step = FakeStep(cuda)
    lr = step.optimizer.param_groups[0]["lr"] = torch.tensor(0.1)
    graph_step = GraphStep(step, CPU)
    for _ in range(6):
        graph_step(4)
        lr.mul_(0.5)
    assert cuda.recorded == 1


def test_a_recording_knows_the_generator_of_the_noise(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch):
    step, graphs = FakeStep(cuda), []
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graphs.append(FakeGraph()) or graphs[-1])
    graph_step = GraphStep(step, CPU)
    for _ in range(5):
        graph_step(4)
    assert [graph.generators for graph in graphs] == [[step.noise]]


# What cannot be recorded


def test_a_step_that_cannot_be_recorded_goes_on_eagerly_and_says_why(cuda: FakeCuda, caplog):
    step = FakeStep(cuda)
    cuda.refusal = RuntimeError(
        "operation not permitted when stream is capturing\nCompile with TORCH_USE_CUDA_DSA"
    )
    graph_step = GraphStep(step, CPU)
    with caplog.at_level(logging.WARNING):
        for size in (4, 4, 4, 4, 3, 3, 3, 3, 4):
            graph_step(size)
    assert kinds(step) == ["eager"] * 9
    assert step.prepared == 9
    assert cuda.recorded == 1
    assert graph_step.fallback == "RuntimeError: operation not permitted when stream is capturing"
    [record] = caplog.records
    assert "cannot be recorded as a CUDA graph" in record.getMessage()
    assert graph_step.fallback in record.getMessage()
    assert "trainer.step=eager" in record.getMessage()


def test_an_error_without_words_is_told_by_its_kind(cuda: FakeCuda):
    cuda.refusal = NotImplementedError()
    graph_step = GraphStep(FakeStep(cuda), CPU)
    for _ in range(4):
        graph_step(4)
    assert graph_step.fallback.startswith("NotImplementedError")


def test_after_a_recording_has_failed_training_is_that_of_eager_steps(cuda: FakeCuda):
    """The noise is that which would have come, and no step is lost or made twice."""
    vae, alone = small_vae(), small_vae()
    step, eager = (make_step(Scoring(each, ELBO()), each, [1] * 7) for each in (vae, alone))
    cuda.refusal = RuntimeError("no")
    graph_step = GraphStep(step, CPU)
    for _ in range(7):
        assert torch.equal(graph_step(1), eager(1))
    assert graph_step.fallback
    assert torch.equal(weights(vae), weights(alone))
    assert torch.equal(step.noise.get_state(), eager.noise.get_state())
    assert isinstance(step.noise, ShardedGenerator)


def test_the_reason_is_what_went_wrong_first(cuda: FakeCuda):
    try:
        try:
            raise ValueError("the loss is read")
        finally:
            raise RuntimeError("capture_end: invalidated")
    except RuntimeError as error:
        cuda.refusal = error
    graph_step = GraphStep(FakeStep(cuda), CPU)
    for _ in range(4):
        graph_step(4)
    assert graph_step.fallback == "ValueError: the loss is read"


def test_memory_that_runs_out_while_recording_is_told_as_such(cuda: FakeCuda):
    cuda.refusal = torch.OutOfMemoryError("CUDA out of memory")
    graph_step = GraphStep(FakeStep(cuda), CPU)
    for _ in range(3):
        graph_step(4)
    with pytest.raises(torch.OutOfMemoryError):
        graph_step(4)
    assert graph_step.fallback is None


class Changing:
    """Stands for a loss that changes something on the host in every call."""

    def __init__(self, change: Callable[["Changing"], Any]) -> None:
        self.calls, self.kept, self.inner, self._change = 0, [1, {"a": 2}], SimpleNamespace(count=0), change

    def __call__(self) -> None:
        self._change(self)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda loss: setattr(loss, "calls", loss.calls + 1), "calls"),
        (lambda loss: loss.kept[1].update(a=loss.kept[1]["a"] + 1), "kept[1]['a']"),
        (lambda loss: loss.kept.append(1), "the length of kept"),
        (lambda loss: setattr(loss.inner, "count", loss.inner.count + 1), "inner.count"),
        (lambda loss: random.random(), "the random state of Python"),
        (lambda loss: np.random.random(), "the random state of numpy"),
        (lambda loss: torch.rand(1), "the random state of torch on the CPU"),
    ],
)
def test_what_changes_on_the_host_is_not_recorded(cuda: FakeCuda, change: Callable[[Changing], Any], told: str):
    step = FakeStep(cuda, score=Changing(change))
    graph_step = GraphStep(step, CPU)
    for _ in range(6):
        graph_step(4)
    assert kinds(step) == ["eager"] * 6
    assert cuda.recorded == 0
    assert graph_step.fallback == f"{told} changes from step to step, which a recording would not see"


def test_what_changes_once_only_is_recorded(cuda: FakeCuda):
    step = FakeStep(cuda, score=Changing(lambda loss: setattr(loss, "calls", 1)))
    graph_step = GraphStep(step, CPU)
    for _ in range(6):
        graph_step(4)
    assert graph_step.fallback is None
    assert cuda.recorded == 1


def test_an_optimiser_that_counts_its_steps_on_the_host_is_not_recorded(cuda: FakeCuda):
    step = FakeStep(cuda)
    state = step.optimizer.state[step.optimizer.param_groups[0]["params"][0]]
    state["step"] = 0
    step.score = lambda: state.update(step=state["step"] + 1)
    graph_step = GraphStep(step, CPU)
    for _ in range(4):
        graph_step(4)
    assert graph_step.fallback.startswith("optimizer.state[0]['step'] changes from step to step")


def test_the_attributes_of_a_module_are_named_by_their_place():
    vae = small_vae()
    host = HostState(Scoring(vae, ELBO()), adam(vae.parameters()))
    before = host.seen()
    assert first_change(before, host.seen()) is None
    vae.encoder.calls = 1
    assert first_change(before, host.seen()) == "vae.encoder.calls"


def test_objects_that_hold_one_another_are_looked_at_once():
    one, other = SimpleNamespace(count=1), SimpleNamespace(count=2)
    one.other, other.one = other, one
    host = HostState(one, adam(small_vae().parameters()))
    before = host.seen()
    other.count = 3
    assert first_change(before, host.seen()) == "other.count"


def test_what_the_compiler_keeps_is_not_looked_at():
    vae = small_vae()
    compiled = SimpleNamespace(_orig_mod=vae, counter=0)
    host = HostState(compiled, adam(vae.parameters()))
    before = host.seen()
    compiled.counter = 1
    assert first_change(before, host.seen()) is None


# The stream


def test_everything_is_ordered_on_the_stream_of_the_recordings(cuda: FakeCuda):
    with GraphStep(FakeStep(cuda), CPU).running():
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
    with pytest.raises(KeyError), GraphStep(FakeStep(cuda), CPU).running():
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


# A real device

real = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def on_cuda(function: Any) -> Any:
    """Only where there is a device."""
    for mark in real:
        function = mark(function)
    return function


def _cuda_images(*, streamed: bool = False) -> ImageSet:
    device = torch.device("cuda", 0)
    return grey_images(67).streamed_to(device) if streamed else grey_images(67).to(device)


def _cuda_run(path: Path, *, streamed: bool = False, epochs: int = 2, **settings: Any) -> tuple[Trainer, VAE]:
    vae = small_vae(hidden=32)
    images = _cuda_images(streamed=streamed)
    trainer = make_trainer(path, train=images, vae=vae, batch_size=8, epochs=epochs, **settings)
    return fit(trainer), vae


def _halving(optimizer: torch.optim.Optimizer) -> StepLR:
    return StepLR(optimizer, step_size=1, gamma=0.5)


@on_cuda
@pytest.mark.parametrize("settings", [{}, {"gradient_clip": 0.1, "ema_decay": 0.9}, {"scheduler": _halving}])
def test_recorded_steps_are_eager_ones_to_rounding(tmp_path: Path, settings: dict[str, Any]):
    """Five epochs of eight whole batches, which are recorded, and a short one, which is not."""
    graph, recorded = _cuda_run(tmp_path / "graph", epochs=5, step="graph", **settings)
    _, eager = _cuda_run(tmp_path / "eager", epochs=5, step="eager", **settings)
    assert graph.step_mode == "graph"
    assert graph._stepper.fallback is None
    assert {size for size, _ in graph._stepper._graphs} == {8}
    torch.testing.assert_close(weights(recorded), weights(eager), rtol=1e-4, atol=1e-5)


@on_cuda
@pytest.mark.parametrize("step", ["graph", "eager"])
def test_streamed_images_train_as_resident_ones_on_the_device(tmp_path: Path, step: str):
    resident, one = _cuda_run(tmp_path / "resident", epochs=5, step=step)
    streamed, other = _cuda_run(tmp_path / "streamed", streamed=True, epochs=5, step=step)
    assert getattr(streamed._stepper, "fallback", None) is None
    torch.testing.assert_close(weights(other), weights(one), rtol=1e-4, atol=1e-5)
    assert resident.position.step == streamed.position.step == 45


@on_cuda
def test_a_run_goes_on_to_the_bit_on_the_device(tmp_path: Path):
    _, whole = _cuda_run(tmp_path / "whole", epochs=6, step="graph")
    _cuda_run(tmp_path / "first", epochs=3, step="graph")
    state = load_checkpoint(tmp_path / "first" / "checkpoints" / "last.pt", CPU)
    vae = small_vae(hidden=32)
    resumed = make_trainer(
        tmp_path / "second", train=_cuda_images(), vae=vae, batch_size=8, epochs=6, step="graph"
    )
    resumed.load_state(state)
    fit(resumed)
    assert torch.equal(weights(vae), weights(whole))


@on_cuda
@pytest.mark.parametrize("step", ["graph", "eager"])
def test_no_step_waits_for_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str):
    original, steps = Trainer._run_step, []

    def strict(self: Trainer, *arguments: Any) -> None:
        torch.cuda.set_sync_debug_mode("error" if self.position.epoch >= 3 else "default")
        try:
            original(self, *arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        steps.append(self.position.epoch)

    monkeypatch.setattr(Trainer, "_run_step", strict)
    _cuda_run(tmp_path, epochs=8, step=step, gradient_clip=0.5, ema_decay=0.9)
    assert len([epoch for epoch in steps if epoch >= 3]) == 45


class Waits(ELBO):
    """A loss that reads a value on the host."""

    def __call__(self, vae: VAE, images: Tensor, noise: torch.Generator) -> LossTerms:
        terms = super().__call__(vae, images, noise)
        assert terms.loss.sum().item() == terms.loss.sum().item()
        return terms


@on_cuda
def test_a_model_that_waits_for_the_device_trains_eagerly(tmp_path: Path, caplog):
    with caplog.at_level(logging.WARNING):
        trainer, vae = _cuda_run(tmp_path / "waits", step="graph", loss=Waits())
    _, eager = _cuda_run(tmp_path / "eager", step="eager")
    assert trainer._stepper.fallback
    assert "cannot be recorded" in caplog.text
    torch.testing.assert_close(weights(vae), weights(eager), rtol=1e-4, atol=1e-5)


@on_cuda
def test_noise_of_recorded_steps_is_new_at_every_replay():
    device = torch.device("cuda", 0)
    noise, graph = generator(0, "noise", device), torch.cuda.CUDAGraph()
    graph.register_generator_state(noise)
    with torch.cuda.graph(graph):
        drawn = torch.randn(4, generator=noise, device=device)
    draws = []
    for _ in range(3):
        graph.replay()
        draws.append(tuple(drawn.tolist()))
    assert len(set(draws)) == 3
