import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau

from tests.builders import (
    CPU,
    RecordingEvaluator,
    RecordingTracker,
    fit,
    grey_images,
    halving,
    make_trainer,
    small_vae,
    stored_weights,
    weights,
)
from vae_exp.data.images import Batch, ImageSet
from vae_exp.engine.checkpoint import load_checkpoint
from vae_exp.engine.progress import NullProgress
from vae_exp.engine.seeding import make_generator
from vae_exp.engine.shutdown import GracefulShutdown
from vae_exp.engine.trainer import Trainer
from vae_exp.errors import DivergedError, Interrupted, TrialPruned
from vae_exp.model.vae import VAE
from vae_exp.objective.elbo import ELBO
from vae_exp.objective.loss_terms import LossTerms
from vae_exp.storage.run_directory import RunDirectory


def pixel_sum(count: int, seed: int = 0) -> float:
    return grey_images(count, seed).batch().images.sum().item()


class PixelSum:
    """A loss without noise: the sum of an image's pixels; distortion and rate are a quarter and a half of it.

    Twice the sum of the parameters goes to the gradient, not to the value.
    """

    def __call__(self, vae: VAE, batch: Batch, generator: torch.Generator) -> LossTerms:
        parameters = torch.cat([weight.flatten() for weight in vae.parameters()]).sum()
        loss = batch.images.flatten(1).sum(dim=1) + 2 * (parameters - parameters.detach())
        return LossTerms(loss=loss, distortion=loss / 4, rate=loss / 2)


@dataclass
class Scripted:
    """Every image of an epoch has the next of these losses.

    `act` is called with the number of each epoch, of `steps` steps, at its first step.
    """

    train: Sequence[float]
    val: Sequence[float] = ()
    act: Callable[[int], None] = lambda epoch: None
    steps: int = 3
    step: int = 0

    def __call__(self, vae: VAE, batch: Batch, generator: torch.Generator) -> LossTerms:
        self.step += vae.training
        epoch = -(-self.step // self.steps)
        if vae.training and self.step % self.steps == 1:
            self.act(epoch)
        value = (self.train if vae.training else self.val)[epoch - 1]
        moving = next(vae.parameters()).sum()
        loss = torch.full((len(batch),), value) + moving - moving.detach()
        return LossTerms(loss=loss, distortion=loss, rate=torch.zeros_like(loss))


@dataclass
class RecordingDisplay(NullProgress):
    """A progress display that records its calls."""

    wants: bool = False
    steps: list[Mapping[str, float] | None] = field(default_factory=list)
    epochs: list[tuple[int, float]] = field(default_factory=list)
    closed: int = 0

    def needs_metrics(self) -> bool:
        return self.wants

    def step(self, metrics: Mapping[str, float] | None) -> None:
        self.steps.append(metrics)

    def epoch(self, epoch: int, batch_sum: float, metrics: Mapping[str, float]) -> None:
        self.epochs.append((epoch, batch_sum))

    def close(self) -> None:
        self.closed += 1


@dataclass
class Bench:
    """A trainer with everything around it."""

    trainer: Trainer
    vae: VAE
    tracker: RecordingTracker
    directory: RunDirectory

    def fit(self, progress: NullProgress | None = None) -> "Bench":
        fit(self.trainer, progress)
        return self

    def run_final_evaluators(self) -> None:
        with GracefulShutdown() as shutdown:
            self.trainer.run_final_evaluators(shutdown)

    def checkpoint(self, name: str) -> dict[str, Any]:
        return load_checkpoint(self.directory.checkpoint(name), CPU)


@pytest.fixture
def bench(tmp_path: Path) -> Callable[..., Bench]:
    """Make a trainer on three batches; weights do not move unless `lr` says so."""

    def make(*, lr: float = 0.0, train: int = 5, val: int = 3, folder: str = "run", **settings: Any) -> Bench:
        vae, tracker = small_vae(), RecordingTracker()
        trainer = make_trainer(
            tmp_path / folder,
            train=grey_images(train),
            val=grey_images(val, seed=1),
            vae=vae,
            optimizer=partial(SGD, lr=lr),
            trackers=[tracker],
            **{"epochs": 1, "batch_size": 2, "reduction": "sum", "seed": 0} | settings,
        )
        return Bench(trainer, vae, tracker, RunDirectory(tmp_path / folder))

    return make


# What is reported


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5])
def test_every_epoch_is_logged_with_means_that_weigh_every_image_equally(bench, batch_size: int):
    made = bench(loss=PixelSum(), train=5, val=4, batch_size=batch_size, epochs=2).fit()
    lines, steps = made.tracker.lines, -(-5 // batch_size)
    last_size = 5 - batch_size * (steps - 1)
    assert [(step, line["epoch"]) for step, line in lines] == [(steps, 1), (2 * steps, 2)]
    for _, line in lines:
        for split, count, seed in (("train", 5, 0), ("val", 4, 1)):
            mean = pixel_sum(count, seed) / count
            expected = {"loss": mean, "distortion": mean / 4, "rate": mean / 2, "elbo": -0.75 * mean}
            assert {name: line[f"{split}/{name}"] for name in expected} == pytest.approx(expected, rel=1e-6)
        assert line["train/grad_norm"] == pytest.approx(2 * last_size * len(weights(made.vae)) ** 0.5)
        assert line["time/images_per_second"] * line["time/epoch_seconds"] == pytest.approx(5)
        assert json.loads(json.dumps(line)) == line


@pytest.mark.parametrize("needs_metrics", [True, False])
def test_the_display_gets_batch_sums_and_the_terms_of_steps_per_image(bench, needs_metrics: bool):
    display, mean = RecordingDisplay(needs_metrics), pixel_sum(2) / 2
    bench(loss=PixelSum(), train=2, batch_size=2, epochs=2).fit(display)
    terms = pytest.approx({"loss": mean, "rate": mean / 2, "distortion": mean / 4})
    assert display.steps == [terms if needs_metrics else None] * 2
    assert display.epochs == [(1, pytest.approx(2 * mean)), (2, pytest.approx(2 * mean))]
    assert display.closed == 1


def test_the_same_seed_gives_the_same_run_and_evaluators_do_not_disturb_it(bench):
    losses = [
        bench(folder=str(run), lr=0.05, epochs=8, seed=seed, evaluators=evaluators)
        .fit()
        .tracker.column("train/loss")
        for run, (seed, evaluators) in enumerate(
            [(4, {}), (4, {"probe": RecordingEvaluator(every_n_epochs=1)}), (5, {})]
        )
    ]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]
    assert losses[0][-1] < losses[0][0] - 0.1


def test_validation_has_the_same_noise_each_epoch_and_training_has_not(bench):
    made = bench(val=3, batch_size=5, seed=7, epochs=3)
    terms = ELBO()(made.vae.eval(), grey_images(3, seed=1).batch(), make_generator(7, "evaluation", CPU))
    tracker = made.fit().tracker
    assert tracker.column("val/loss") == [pytest.approx(terms.loss.mean().item(), rel=1e-6)] * 3
    assert len(set(tracker.column("train/distortion"))) == 3


def test_run_steps_trains_as_fit_and_writes_nothing(bench):
    whole, parts = bench(folder="whole", lr=0.05, epochs=2).fit(), bench(folder="parts", lr=0.05)
    assert [parts.trainer.run_steps(count) for count in (2, 4)] == [4, 6]  # of batches of 2, 2 and 1 images
    for trained, expected in zip(parts.vae.parameters(), whole.vae.parameters(), strict=True):
        assert torch.equal(trained, expected)
    state = parts.trainer.state
    assert (state.global_step, state.epoch, state.batch_in_epoch) == (6, 1, 3)
    assert parts.tracker.lines == []
    assert not parts.directory.checkpoint("last").exists()


# The schedule


def test_the_scheduler_is_stepped_once_an_epoch(bench):
    made = bench(lr=0.8, train=5, batch_size=1, epochs=3, scheduler=halving)
    assert made.fit().tracker.column("train/learning_rate") == [0.8, 0.4, 0.2]


class _Seen(ReduceLROnPlateau):
    def step(self, metrics: Any) -> None:  # type: ignore[override]
        vars(self).setdefault("seen", []).append(metrics)
        super().step(metrics)


@pytest.mark.parametrize(
    ("monitor", "expected"),
    [("val/loss", [3.0, 2.0, 5.0]), ("train/loss", [9.0, 8.0, 7.0]), ("val/rate", [0.0] * 3)],
)
def test_reducing_on_a_plateau_follows_the_monitor(bench, monitor: str, expected: list[float]):
    made: list[_Seen] = []

    def scheduler(optimizer: SGD) -> _Seen:
        made.append(_Seen(optimizer))
        return made[0]

    script = Scripted(train=[9.0, 8.0, 7.0], val=[3.0, 2.0, 5.0])
    bench(loss=script, monitor=monitor, epochs=3, scheduler=scheduler).fit()
    assert made[0].seen == expected


# Checkpoints


@pytest.mark.parametrize(
    ("monitor", "epoch", "value", "val"),
    [("val/loss", 2, 1.0, 3), ("train/loss", 3, 5.0, 3), ("train/loss", 3, 5.0, 0)],
)
def test_the_best_checkpoint_is_the_epoch_of_the_lowest_monitor(bench, monitor, epoch, value, val):
    script = Scripted(train=[9.0, 8.0, 5.0, 6.0], val=[3.0, 1.0, 2.0, 1.0])
    made = bench(loss=script, epochs=4, monitor=monitor, val=val, scheduler=halving).fit()
    best, last = made.checkpoint("best"), made.checkpoint("last")
    assert (best["epoch"], last["epoch"], last["step"]) == (epoch, 4, 12)
    for state in (best, last):
        stored = {name: state["best"][name] for name in ("monitor", "value", "epoch")}
        assert stored == {"monitor": monitor, "value": value, "epoch": epoch}
        assert state["config_hash"] == "0123abcd"
        assert state["generators"].keys() == {"device", "shuffle", "noise", "process"}
    assert last["scheduler"]["last_epoch"] == 4
    assert made.trainer.state.train_seconds >= sum(made.trainer.phase_seconds.values()) > 0


# Ends


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("split", "message"),
    [("train", r"train/distortion is {} in epoch 3 \(step 7\)"), ("val", "val/loss is {} in epoch 3")],
)
def test_a_loss_that_is_not_finite_ends_training_and_names_the_epoch(
    bench, value: float, split: str, message: str
):
    script = {"train": [2.0, 1.0, 1.0], "val": [1.0] * 3}
    script[split][2] = value
    made = bench(loss=Scripted(**script), epochs=5)
    with pytest.raises(DivergedError, match=message.format(value)):
        made.fit()
    assert made.trainer.state.epoch == 2
    assert made.checkpoint("last")["epoch"] == 2


class Explodes:
    """The step of the second epoch has a loss or a gradient that is not a number, as `spoil` has it.

    Afterwards `refuse` raises, as torch.distributions with validate_args, which is its default.
    """

    def __init__(self, spoil: str, refuse: bool = False) -> None:
        self.calls, self.spoil, self.refuse = 0, spoil, refuse

    def __call__(self, vae: VAE, batch: Batch, generator: torch.Generator) -> LossTerms:
        self.calls += vae.training
        weights = torch.cat([weight.flatten() for weight in vae.parameters()])
        loss = batch.images.flatten(1).sum(dim=1) + weights.square().sum()
        if self.refuse and not loss.isfinite().all():
            raise ValueError("Expected parameter loc to satisfy the constraint Real()")
        if self.calls == 2 and vae.training and self.spoil == "gradient":
            next(vae.parameters()).register_hook(lambda gradient: gradient * float("nan"))
        scale = float("nan") if self.calls == 2 and self.spoil == "loss" else 1.0
        return LossTerms(loss=loss * scale, distortion=loss, rate=loss)


@pytest.mark.parametrize(
    ("spoil", "refuse", "val"), [("loss", False, 0), ("gradient", False, 0), ("gradient", True, 3)]
)
def test_weights_that_are_not_finite_never_replace_a_good_checkpoint(bench, spoil: str, refuse: bool, val: int):
    made = bench(loss=Explodes(spoil, refuse), lr=0.01, train=4, val=val, batch_size=4, epochs=3)
    with pytest.raises(DivergedError):
        made.fit()
    last = made.checkpoint("last")
    assert last["epoch"] == 1
    assert all(torch.isfinite(weight).all() for weight in last["vae"].values())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("epoch", [1, 3])
def test_an_interrupted_run_writes_its_last_checkpoint(bench, number: int, epoch: int):
    act = lambda started: os.kill(os.getpid(), number) if started == epoch else None  # noqa: E731
    script = Scripted(train=[1.0] * 5, val=[1.0] * 5, act=act)
    made, display = bench(loss=script, train=5, batch_size=2, epochs=5), RecordingDisplay()
    with pytest.raises(Interrupted) as caught:
        made.fit(display)
    assert caught.value.signal_number == number
    last = made.checkpoint("last")
    assert (last["epoch"], last["step"]) == (epoch - 1, 3 * (epoch - 1) + 1)
    assert made.directory.checkpoint("best").exists() is (epoch > 1)
    assert display.closed == 1


def test_an_interruption_does_not_replace_a_good_checkpoint_by_weights_that_are_not_finite(bench):
    class Spoils(RecordingDisplay):
        """After the first step of the second epoch the weights are no numbers, and Ctrl-C is pressed."""

        def step(self, metrics: Mapping[str, float] | None) -> None:
            super().step(metrics)
            if len(self.steps) == 4:
                with torch.no_grad():
                    next(made.vae.parameters()).fill_(float("nan"))
                os.kill(os.getpid(), signal.SIGINT)

    made = bench(loss=Scripted(train=[1.0] * 3, val=[1.0] * 3), train=5, batch_size=2, epochs=3)
    with pytest.raises(Interrupted):
        made.fit(Spoils())
    assert all(torch.isfinite(weight).all() for weight in made.checkpoint("last")["vae"].values())


def test_a_pruned_run_writes_its_last_checkpoint(bench):
    made = bench(epochs=5, checkpoint_every_n_epochs=None, checkpoint_every_n_seconds=1000.0)
    pruner = SimpleNamespace(stop=lambda epoch, metrics: epoch == 3)
    with pytest.raises(TrialPruned):
        made.trainer.fit(GracefulShutdown(), NullProgress(), pruner)
    assert made.checkpoint("last")["epoch"] == 3


class _Signals(RecordingEvaluator):
    """An evaluator during which Ctrl-C is pressed."""

    def run(self, vae: VAE, images: ImageSet, generator: torch.Generator) -> Iterator[tuple[str, object]]:
        os.kill(os.getpid(), signal.SIGINT)
        yield from super().run(vae, images, generator)


@pytest.mark.parametrize("every", [None, 1])
@pytest.mark.parametrize("is_last", [False, True])
def test_a_signal_during_an_evaluator_ends_the_run_before_the_next(bench, every: int | None, is_last: bool):
    later = RecordingEvaluator(every)
    made = bench(evaluators={"first": _Signals(every)} | ({} if is_last else {"later": later}))
    with pytest.raises(Interrupted):
        made.fit().run_final_evaluators()
    assert later.images == []


def test_a_signal_during_the_last_batch_of_validation_ends_the_run_before_the_evaluators(bench):
    class Signals(PixelSum):
        def __call__(self, vae: VAE, batch: Batch, generator: torch.Generator) -> LossTerms:
            if not vae.training:
                os.kill(os.getpid(), signal.SIGINT)
            return super().__call__(vae, batch, generator)

    later = RecordingEvaluator(every_n_epochs=1)
    made = bench(loss=Signals(), val=2, batch_size=2, evaluators={"later": later})
    with pytest.raises(Interrupted):
        made.fit()
    assert later.images == []


def test_an_epoch_counts_once_it_has_been_logged(bench):
    made = bench(train=5, batch_size=2, epochs=5, evaluators={"first": _Signals(every_n_epochs=2)})
    with pytest.raises(Interrupted):
        made.fit()
    [(step, line)] = made.tracker.lines
    assert (step, line["epoch"], made.trainer.state.epoch) == (3, 1, 1)
    assert made.trainer.state.metrics["train/loss"] == line["train/loss"]
    last = made.checkpoint("last")
    assert (last["epoch"], last["step"]) == (1, 6)


# Evaluators


def test_evaluators_run_at_their_interval_or_once_at_the_end(bench):
    """Metrics of training are not replaced."""
    figure = Figure(figsize=(1, 1))
    second = RecordingEvaluator(2, {"probe": 2, "samples": figure})
    at_end = RecordingEvaluator(None, {"loss": 0.5, "score": 1.0, "figure": figure})
    made = bench(train=5, batch_size=5, epochs=5, evaluators={"second": second, "at_end": at_end}).fit()
    assert [(step, line["val/probe"]) for step, line in made.tracker.lines if "val/probe" in line] == [
        (2, 2.0),
        (4, 2.0),
    ]
    assert not made.tracker.column("val/samples")
    assert at_end.images == []
    validated = made.trainer.state.metrics["val/loss"]
    made.run_final_evaluators()
    assert (len(second.images), len(at_end.images)) == (2, 1)
    assert made.tracker.lines[-1] == (5, {"epoch": 5, "best/val/score": 1.0})  # best/val/loss is of validation
    metrics = made.trainer.state.metrics
    assert (metrics["val/loss"], metrics["best/val/score"]) == (validated, 1.0)
    samples, last = ({name: made.directory.figures / f"{name}.png"} for name in ("samples", "figure"))
    assert made.tracker.figures == [(2, samples), (4, samples), (5, last)]


@pytest.mark.parametrize("has_best", [True, False])
def test_evaluators_at_the_end_see_the_weights_of_the_best_checkpoint(bench, has_best: bool):
    at_end = RecordingEvaluator(None, {"score": 1.0})
    script = Scripted(train=[1.0] * 4, val=[3.0, 1.0, 2.0, 2.0])
    made = bench(loss=script, epochs=4, lr=0.1, evaluators={"at_end": at_end}).fit()
    last, best = weights(made.vae), stored_weights(made.checkpoint("best")["vae"])
    assert not torch.equal(last, best)
    if not has_best:
        made.directory.checkpoint("best").unlink()
    made.run_final_evaluators()
    assert torch.equal(at_end.weights[0], best if has_best else last)
    assert torch.equal(weights(made.vae), last)
    assert ("best/val/score" if has_best else "val/score") in made.trainer.state.metrics


@pytest.mark.parametrize(("held_out", "split"), [(3, "val"), (0, "train")])
def test_evaluators_see_the_held_out_images_or_else_those_of_training(bench, held_out: int, split: str):
    probe = RecordingEvaluator(every_n_epochs=1)
    made = bench(val=held_out, evaluators={"probe": probe}, monitor="train/loss").fit()
    expected = grey_images(held_out, seed=1) if held_out else grey_images(5)
    assert [torch.equal(images.pixels, expected.pixels) for images in probe.images] == [True]
    assert made.tracker.column(f"{split}/probe") == [1.0]
    assert any(name.startswith("val/") for name in made.tracker.lines[0][1]) is (split == "val")


def test_an_evaluator_does_not_change_what_is_monitored(bench):
    script = Scripted(train=[1.0] * 4, val=[3.0, 2.0, 1.0, 2.0])
    made = bench(
        loss=script, epochs=4, evaluators={"probe": RecordingEvaluator(every_n_epochs=2, results={"loss": 0.5})}
    ).fit()
    assert made.checkpoint("best")["epoch"] == 3
