"""Training on a real CUDA device: captured steps, streams, resumption, and what cannot be captured."""

import logging
import signal
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from shutil import which
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.optim import Adagrad, Optimizer

from tests.builders import (
    CPU,
    SHAPE,
    RecordingTracker,
    SignalAtStep,
    fit,
    grey_images,
    halving,
    make_trainer,
    small_vae,
    weights,
)
from tests.engine.recordable import LIKELIHOODS, LOSSES, MODELS, Parts, covering, loss_of, model_of, step_of
from vae_exp.configuration.instantiate import build_optimizer
from vae_exp.data.batch_loader import make_loader
from vae_exp.data.images import Batch, ImageSet
from vae_exp.engine.checkpoint import load_checkpoint
from vae_exp.engine.cuda_graph import CUDAGraphStep
from vae_exp.engine.progress import NullProgress
from vae_exp.engine.trainer import Trainer
from vae_exp.errors import DivergedError, Interrupted, UserError
from vae_exp.model.conditional import ConditionalDecoder, ConditionalEncoder, ConditionalVAE
from vae_exp.model.priors import StandardNormalPrior
from vae_exp.model.vae import VAE
from vae_exp.objective.beta_vae import BetaVAE
from vae_exp.objective.elbo import ELBO
from vae_exp.objective.loss_terms import LossTerms
from vae_exp.objective.schedules import Linear

pytestmark = pytest.mark.cuda

LRS = {"Adam": 0.02, "AdamW": 0.02, "SGD": 1e-3, "Adagrad": 0.02, "RMSprop": 1e-3}


def _optimizer(name: str, **options: Any) -> Callable[[Any], Optimizer]:
    """As a run builds it: with fused kernels where torch has them."""
    return partial(build_optimizer, {"_target_": f"torch.optim.{name}", "lr": LRS[name], **options})


def _images(*, streamed: bool = False, count: int = 67, index: int = 0, **changes: Any) -> ImageSet:
    device, grey = torch.device("cuda", index), grey_images(count)
    labels = torch.arange(count) % 3
    images = ImageSet(grey.pixels, labels, grey.pixel_max, **changes)
    return images.stream_to(device) if streamed else images.to(device)


def _trainer(
    path: Path, *, images: ImageSet | None = None, vae: VAE | None = None, epochs: int = 2, **settings: Any
) -> tuple[Trainer, VAE]:
    vae = vae or small_vae(hidden=32)
    optimizer = settings.pop("optimizer", _optimizer("Adam"))
    images = images or _images()
    return make_trainer(
        path, train=images, vae=vae, optimizer=optimizer, epochs=epochs, **{"batch_size": 8} | settings
    ), vae


def _run(path: Path, **settings: Any) -> tuple[Trainer, VAE]:
    trainer, vae = _trainer(path, **settings)
    return fit(trainer), vae


def _fallback(trainer: Trainer) -> str | None:
    return trainer._step.fallback


def _is_capturable(trainer: Trainer) -> bool:
    """All optimisers here but Adagrad without fused kernels (torch 2.11 to 2.13), which reads its step count."""
    return not isinstance(trainer._optimizer, Adagrad) or bool(trainer._optimizer.param_groups[0].get("fused"))


def _conditional() -> VAE:
    torch.manual_seed(0)
    encoder = ConditionalEncoder(SHAPE, 2, [32], "tanh", 3)
    return ConditionalVAE(encoder, ConditionalDecoder(SHAPE, 2, [32], "tanh", 3), StandardNormalPrior(2))


SETTINGS: dict[str, Callable[[], dict[str, Any]]] = {
    **{name: lambda name=name: {"optimizer": _optimizer(name)} for name in LRS},
    **{
        f"{name}, a schedule of the learning rate": lambda name=name: {
            "optimizer": _optimizer(name),
            "scheduler": halving,
        }
        for name in LRS
    },
    "SGD with momentum": lambda: {"optimizer": _optimizer("SGD", momentum=0.9)},
    "gradient clipping and an average": lambda: {"max_grad_norm": 0.1, "ema_decay": 0.9},
    "dynamic binarization": lambda: {"images": _images(binarization_seed=0)},
    "streamed images": lambda: {"images": _images(streamed=True)},
    "labels": lambda: {"vae": _conditional()},
    "streamed labels": lambda: {"vae": _conditional(), "images": _images(streamed=True)},
    "a schedule by step": lambda: {"loss": BetaVAE(Linear(0.0, 1.0, 30, "step"))},
    "bf16": lambda: {"precision": "bf16"},
    "tf32": lambda: {"precision": "tf32"},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_captured_steps_are_eager_ones_to_rounding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    """Five epochs of eight whole batches, which are captured once, and a short one, which is not."""
    made, capture = [], torch.cuda.CUDAGraph
    with monkeypatch.context() as patched:
        patched.setattr(torch.cuda, "CUDAGraph", lambda: made.append(1) or capture())
        graph, recorded = _run(tmp_path / "graph", epochs=5, execution="graph", **SETTINGS[name]())
    _, eager = _run(tmp_path / "eager", epochs=5, execution="eager", **SETTINGS[name]())
    assert len(made) == 1
    if _is_capturable(graph):
        assert _fallback(graph) is None
        assert graph.execution == "graph"
        assert set(graph._step._captures) == {1}
    else:
        assert "capturing" in _fallback(graph)
    torch.testing.assert_close(weights(recorded), weights(eager), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("step", ["graph", "eager"])
def test_streamed_images_train_as_resident_ones(tmp_path: Path, step: str):
    resident, one = _run(tmp_path / "resident", epochs=5, execution=step)
    streamed, other = _run(tmp_path / "streamed", images=_images(streamed=True), epochs=5, execution=step)
    torch.testing.assert_close(weights(other), weights(one), rtol=1e-4, atol=1e-5)
    assert resident.state.global_step == streamed.state.global_step == 45


def test_streamed_images_reach_another_device_than_the_current_one(tmp_path: Path):
    """Pinned buffers are refilled once their copy has left, whichever device is the current one."""
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    pixels = torch.randint(256, (256, 1, 256, 256), dtype=torch.uint8)
    device = torch.device("cuda", 1)
    assert torch.cuda.current_device() == 0
    sums = {}
    for kind in ("streamed", "resident"):
        images = ImageSet(pixels, None, 255)
        images = images.stream_to(device) if kind == "streamed" else images.to(device)
        loader = make_loader(images, 32)
        pixel_sums = []
        for _ in range(20):
            loader.start_epoch(torch.arange(256, device=device), [32] * 8, 0)
            for _ in range(8):
                loader.prefetch()
                pixel_sums.append(loader.next_batch(32).images.double().sum())
        sums[kind] = torch.stack(pixel_sums).cpu()
    assert torch.equal(sums["streamed"], sums["resident"])


# Resumption


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD", "RMSprop"])
@pytest.mark.parametrize("stop", [5, 14, 27], ids=lambda stop: f"stopped after {stop} steps")
def test_a_run_resumes_to_the_bit(tmp_path: Path, name: str, stop: int):
    """Nine steps are an epoch; a resumed run warms up where the whole one replays."""
    settings = {"epochs": 6, "execution": "graph", "optimizer": _optimizer(name), "scheduler": halving}
    whole, expected = _run(tmp_path / "whole", **settings)
    first, _ = _trainer(tmp_path / "first", **settings)
    with pytest.raises(Interrupted):
        fit(first, SignalAtStep(stop, signal.SIGTERM))
    assert first.state.global_step == stop
    resumed, vae = _trainer(tmp_path / "second", **settings)
    resumed.load_state_dict(load_checkpoint(tmp_path / "first" / "checkpoints" / "last.pt", CPU))
    fit(resumed)
    assert _fallback(whole) is _fallback(resumed) is None
    assert torch.equal(weights(vae), weights(expected))


# Several steps in a graph


def _tracked_run(path: Path, **settings: Any) -> tuple[Trainer, Tensor, list[dict[str, float]]]:
    tracker = RecordingTracker()
    trainer, vae = _run(path, trackers=[tracker], **settings)
    assert _fallback(trainer) is None
    return trainer, weights(vae), tracker.rows()


@pytest.mark.parametrize(("steps", "count"), [(3, 67), (5, 64)], ids=["a short last batch", "full batches alone"])
@pytest.mark.parametrize("execution", ["graph", "compile"])
@pytest.mark.parametrize("name", ["Adam", "SGD"])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # of the compiler
def test_several_steps_in_a_graph_are_those_of_as_many_graphs_to_the_bit(
    tmp_path: Path, name: str, execution: str, steps: int, count: int
):
    """Eight full batches are an epoch: 3 + 3 + 1 + 1 or 5 + 1 + 1 + 1."""
    if execution == "compile":
        pytest.importorskip("triton")
    settings = {"execution": execution, "scheduler": halving, "ema_decay": 0.9, "epochs": 3}
    runs = {
        made: _tracked_run(
            tmp_path / str(made),
            steps_per_graph=made,
            images=_images(count=count, binarization_seed=0),
            optimizer=_optimizer(name),
            **settings,
        )
        for made in (steps, 1)
    }
    assert {made: set(trainer._step._captures) for made, (trainer, _, _) in runs.items()} == {
        steps: {steps, 1},
        1: {1},
    }
    assert torch.equal(runs[steps][1], runs[1][1])
    assert runs[steps][2] == runs[1][2]


@pytest.mark.parametrize(("signal_at", "stop"), [(2, 3), (8, 8), (11, 12), (16, 16)])
def test_a_run_of_several_steps_in_a_graph_resumes_within_an_epoch_to_the_bit(
    tmp_path: Path, signal_at: int, stop: int
):
    settings = {"epochs": 4, "execution": "graph", "scheduler": halving}
    _, expected = _run(tmp_path / "whole", **settings)
    first, _ = _trainer(tmp_path / "first", steps_per_graph=3, **settings)
    with pytest.raises(Interrupted):
        fit(first, SignalAtStep(signal_at, signal.SIGTERM))
    assert first.state.global_step == stop
    resumed, vae = _trainer(tmp_path / "first", steps_per_graph=3, **settings)
    resumed.load_state_dict(load_checkpoint(tmp_path / "first" / "checkpoints" / "last.pt", CPU))
    fit(resumed)
    assert torch.equal(weights(vae), weights(expected))


# Nothing waits


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("step", ["graph", "eager"])
@pytest.mark.parametrize("name", ["Adam", "SGD", "RMSprop"])
def test_no_step_waits_for_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, name: str):
    prepare, finish, steps = Trainer._prepare_step, Trainer._finish_step, []

    def prepare_strictly(self: Trainer, *arguments: Any) -> None:
        torch.cuda.set_sync_debug_mode("error" if self.state.epoch >= 3 else "default")
        prepare(self, *arguments)

    def finish_strictly(self: Trainer, *arguments: Any) -> None:
        finish(self, *arguments)
        torch.cuda.set_sync_debug_mode("default")
        steps.append(self.state.epoch)

    monkeypatch.setattr(Trainer, "_prepare_step", prepare_strictly)
    monkeypatch.setattr(Trainer, "_finish_step", finish_strictly)
    try:
        _run(tmp_path, epochs=8, execution=step, max_grad_norm=0.5, ema_decay=0.9, optimizer=_optimizer(name))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len([epoch for epoch in steps if epoch >= 3]) == 45


class Synchronizing(NullProgress):
    """The host waits for the device after every step, so that steps can be counted."""

    def step(self, metrics: Mapping[str, float] | None) -> None:
        torch.cuda.synchronize()


class Spoils(ELBO):
    """A loss that is no number from its tenth call on, counted on the device."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.calls = torch.zeros((), device=device)

    def __call__(self, vae: VAE, batch: Batch, noise: torch.Generator) -> LossTerms:
        terms = super().__call__(vae, batch, noise)
        self.calls += 1
        spoilt = torch.where(self.calls < 10, 1.0, float("nan"))
        return LossTerms(terms.loss * spoilt, terms.distortion * spoilt, terms.rate)


@pytest.mark.parametrize("step", ["graph", "eager"])
def test_a_loss_that_is_no_number_ends_the_run_within_two_looks(tmp_path: Path, step: str):
    images = _images(count=1600)
    trainer, _ = _trainer(tmp_path, images=images, execution=step, loss=Spoils(images.device))
    with pytest.raises(DivergedError, match=r"is nan in epoch 1 \(step 10\)"):
        fit(trainer, Synchronizing())
    assert 10 < trainer.state.global_step <= 2 * 32 + 3


# What cannot be recorded, and what comes after it


class Waits(ELBO):
    """A loss that reads a value on the host."""

    def __call__(self, vae: VAE, batch: Batch, noise: torch.Generator) -> LossTerms:
        terms = super().__call__(vae, batch, noise)
        assert terms.loss.sum().item() == terms.loss.sum().item()
        return terms


class TooLarge(ELBO):
    """A loss that asks for more memory than there is, while it is captured."""

    def __call__(self, vae: VAE, batch: Batch, noise: torch.Generator) -> LossTerms:
        if torch.cuda.is_current_stream_capturing():
            torch.empty(2**46, dtype=torch.uint8, device=batch.images.device)
        return super().__call__(vae, batch, noise)


def _check_that_captures_still_work(path: Path) -> None:
    torch.cuda.empty_cache()
    torch.rand(3, device="cuda")  # by the default generator, which takes part in every capture
    trainer, recorded = _run(path / "graph", execution="graph", epochs=3)
    _, eager = _run(path / "eager", execution="eager", epochs=3)
    assert _fallback(trainer) is None
    torch.testing.assert_close(weights(recorded), weights(eager), rtol=1e-4, atol=1e-5)


def test_a_model_that_waits_for_the_device_trains_eagerly_and_the_next_is_captured(tmp_path: Path, caplog):
    with caplog.at_level(logging.WARNING):
        trainer, vae = _run(tmp_path / "waits", execution="graph", loss=Waits())
    _, eager = _run(tmp_path / "eager", execution="eager")
    assert _fallback(trainer)
    assert "cannot be captured" in caplog.text
    torch.testing.assert_close(weights(vae), weights(eager), rtol=1e-4, atol=1e-5)
    _check_that_captures_still_work(tmp_path)


def test_memory_that_runs_out_in_a_capture_ends_the_run_and_the_next_is_captured(tmp_path: Path):
    trainer, _ = _trainer(tmp_path / "large", execution="graph", loss=TooLarge())
    with pytest.raises(torch.OutOfMemoryError):
        fit(trainer)
    _check_that_captures_still_work(tmp_path)


# Every combination of the parts


def _capture(vae: VAE, loss: Any) -> str | None:
    """Six steps, of which three are replayed; why they were not, if so."""
    step = step_of(vae.to(torch.device("cuda", 0)), loss, _optimizer("Adam", lr=1e-6))
    graph_step = CUDAGraphStep(step, torch.device("cuda", 0), 4)
    with graph_step.on_capture_stream():
        sums = [graph_step(4).clone() for _ in range(6)]
    assert all(bool(step_sums.isfinite().all()) for step_sums in sums)
    return graph_step.fallback


def _capture_parts(parts: Parts, loss: str) -> str | None:
    try:
        vae = model_of(parts)
        built = loss_of(loss, vae)
    except UserError:
        return None
    return _capture(vae, built)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_is_captured_with_every_prior_and_posterior_that_it_takes(loss: str):
    fallbacks = {parts: _capture_parts(parts, loss) for parts in covering(loss)}
    assert {parts: fallback for parts, fallback in fallbacks.items() if fallback} == {}


@pytest.mark.parametrize("model", MODELS)
def test_every_model_is_captured_with_every_likelihood(model: str):
    loss = "vq" if model == "vq" else "elbo"
    fallbacks = {
        likelihood: _capture_parts((model, "standard_normal", "diagonal", likelihood), loss)
        for likelihood in LIKELIHOODS
    }
    assert {likelihood: fallback for likelihood, fallback in fallbacks.items() if fallback} == {}


# Other sources of noise, other steps


class Dropout(VAE):
    """A model that draws from the default generator of the device."""

    def __init__(self) -> None:
        whole = small_vae(hidden=32)
        super().__init__(whole.encoder, whole.decoder, whole.prior)
        self.dropout = nn.Dropout(0.3)

    def encode(self, images: Tensor, labels: Tensor | None = None) -> Distribution:
        return super().encode(self.dropout(images))


def test_a_model_with_dropout_is_captured_and_drops_as_eager_steps_do(tmp_path: Path):
    torch.cuda.manual_seed(3)
    graph, recorded = _run(tmp_path / "graph", epochs=3, execution="graph", vae=Dropout())
    torch.cuda.manual_seed(3)
    _, eager = _run(tmp_path / "eager", epochs=3, execution="eager", vae=Dropout())
    assert _fallback(graph) is None
    torch.testing.assert_close(weights(recorded), weights(eager), rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(which("cc") is None and which("gcc") is None, reason="torch.compile needs a C compiler")
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # of the compiler
def test_compiled_steps_are_captured_too(tmp_path: Path):
    pytest.importorskip("triton")
    compiled, vae = _run(tmp_path / "compile", epochs=3, execution="compile")
    _, eager = _run(tmp_path / "eager", epochs=3, execution="eager")
    assert _fallback(compiled) is None
    assert set(compiled._step._captures) == {1}
    torch.testing.assert_close(weights(vae), weights(eager), rtol=1e-3, atol=1e-4)
