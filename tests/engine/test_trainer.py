import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from tests.builders import RecordingEvaluator, RecordingTracker, trainer_options
from vae_exp.data.images import ImageSet
from vae_exp.engine.checkpoint import load_checkpoint
from vae_exp.engine.progress import LogProgress
from vae_exp.engine.seeding import make_generator
from vae_exp.engine.shutdown import GracefulShutdown
from vae_exp.engine.trainer import Trainer
from vae_exp.errors import DivergedError, Interrupted
from vae_exp.model.decoders import MLPDecoder
from vae_exp.model.encoders import MLPEncoder
from vae_exp.model.priors import StandardNormalPrior
from vae_exp.model.vae import VAE
from vae_exp.objective.elbo import ELBO
from vae_exp.objective.loss_terms import LossTerms
from vae_exp.storage.run_directory import RunDirectory

CPU = torch.device("cpu")


def images(count: int, seed: int = 0) -> ImageSet:
    """Grey images of 2×2 pixels."""
    pixels = torch.rand(count, 1, 2, 2, generator=torch.Generator().manual_seed(seed))
    return ImageSet(pixels=pixels, labels=None, pixel_max=1)


def tiny_vae() -> VAE:
    """The same weights each time."""
    torch.manual_seed(0)
    encoder = MLPEncoder([1, 2, 2], latent_dim=2, hidden_dims=[3], activation="tanh")
    decoder = MLPDecoder([1, 2, 2], latent_dim=2, hidden_dims=[3], activation="tanh")
    return VAE(encoder, decoder, StandardNormalPrior(2))


class PixelSum:
    """A loss without noise: the sum of an image's pixels; distortion and rate are a quarter and a half of it.

    Twice the sum of the parameters goes to the gradient, not to the value.
    """

    def __call__(self, vae: VAE, batch: Tensor, generator: torch.Generator) -> LossTerms:
        parameters = torch.cat([each.flatten() for each in vae.parameters()]).sum()
        loss = batch.flatten(1).sum(dim=1) + 2 * (parameters - parameters.detach())
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

    def __call__(self, vae: VAE, batch: Tensor, generator: torch.Generator) -> LossTerms:
        self.step += vae.training
        epoch = -(-self.step // self.steps)
        if vae.training and self.step % self.steps == 1:
            self.act(epoch)
        value = (self.train if vae.training else self.val)[epoch - 1]
        loss = torch.full((len(batch),), value) + 0 * next(vae.parameters()).sum()
        return LossTerms(loss=loss, distortion=loss, rate=torch.zeros_like(loss))


@dataclass
class Shown(LogProgress):
    """A progress display that remembers."""

    wants: bool = False
    steps: list[Mapping[str, float] | None] = field(default_factory=list)
    epochs: list[tuple[int, float]] = field(default_factory=list)
    closed: int = 0

    def needs_metrics(self) -> bool:
        return self.wants

    def step(self, values: Mapping[str, float] | None) -> None:
        self.steps.append(values)

    def epoch(self, epoch: int, batch_sum: float, metrics: Mapping[str, float]) -> None:
        self.epochs.append((epoch, batch_sum))

    def close(self) -> None:
        self.closed += 1


@dataclass
class Bench:
    """A trainer with everything around it."""

    trainer: Trainer
    vae: VAE
    optimizer: SGD
    kept: RecordingTracker
    directory: RunDirectory

    def fit(self, progress: LogProgress | None = None) -> "Bench":
        with GracefulShutdown() as guard:
            self.trainer.fit(guard, progress or Shown())
        return self

    def finish(self) -> None:
        with GracefulShutdown() as guard:
            self.trainer.run_final_evaluators(guard)

    def checkpoint(self, name: str) -> dict[str, Any]:
        return load_checkpoint(self.directory.checkpoint(name), CPU)


@pytest.fixture
def bench(tmp_path: Path) -> Callable[..., Bench]:
    """Make a trainer; weights do not move unless `lr` says so."""

    def make(
        *,
        loss: Any = None,
        lr: float = 0.0,
        train: int | ImageSet = 5,
        val: int | ImageSet = 3,
        scheduler: Callable[[SGD], Any] = lambda optimizer: None,
        evaluators: Mapping[str, Any] | None = None,
        folder: str = "run",
        **options: Any,
    ) -> Bench:
        vae, kept, directory = tiny_vae(), RecordingTracker(), RunDirectory(tmp_path / folder)
        optimizer = SGD(vae.parameters(), lr=lr)
        trainer = Trainer(
            vae=vae,
            loss=loss or ELBO(),
            optimizer=optimizer,
            scheduler=scheduler(optimizer),
            train=images(train) if isinstance(train, int) else train,
            val=images(val, seed=1) if isinstance(val, int) else val,
            evaluators=evaluators or {},
            trackers=[kept],
            directory=directory,
            options=trainer_options(**{"monitor": "val/loss" if val else "train/loss"} | options),
            checkpoint_metadata={"config_hash": "0123abcd"},
        )
        return Bench(trainer, vae, optimizer, kept, directory)

    return make


# What is reported


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5])
def test_means_weigh_every_image_equally_however_short_the_last_batch(bench, batch_size: int):
    [(_, line)] = bench(loss=PixelSum(), train=5, val=4, batch_size=batch_size).fit().kept.lines
    for split, count, seed in (("train", 5, 0), ("val", 4, 1)):
        mean = images(count, seed).pixels.sum().item() / count
        assert line[f"{split}/loss"] == pytest.approx(mean, rel=1e-6)
        assert line[f"{split}/distortion"] == pytest.approx(mean / 4, rel=1e-6)
        assert line[f"{split}/rate"] == pytest.approx(mean / 2, rel=1e-6)


def test_the_rate_is_that_of_the_models_posterior(bench):
    bench = bench(train=5, val=0, batch_size=2).fit()
    features = torch.tanh(bench.vae.encoder.hidden[0](images(5).pixels.flatten(1)))
    mean, log_variance = bench.vae.encoder.posterior.mean_and_log_variance(features).chunk(2, dim=1)
    rate = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(dim=1).mean().item()
    assert bench.kept.column("train/rate") == [pytest.approx(rate, rel=1e-5)]


def test_the_elbo_is_minus_distortion_minus_rate_whatever_is_minimised(bench):
    [(_, line)] = bench(loss=PixelSum()).fit().kept.lines
    for split in ("train", "val"):
        assert line[f"{split}/elbo"] == pytest.approx(-0.75 * line[f"{split}/loss"], rel=1e-6)


def test_every_epoch_is_told_with_its_number_and_its_step(bench):
    lines = bench(train=5, batch_size=2, epochs=3).fit().kept.lines
    assert [(step, line["epoch"]) for step, line in lines] == [(3, 1), (6, 2), (9, 3)]


def test_speed_is_told_in_images_per_second(bench):
    [(_, line)] = bench(train=5).fit().kept.lines
    assert line["time/images_per_second"] * line["time/epoch_seconds"] == pytest.approx(5)


def test_the_display_gets_the_loss_summed_over_a_batch_and_averaged_over_batches(bench):
    shown = Shown(epochs=[])
    bench(loss=PixelSum(), train=5, batch_size=2, epochs=2).fit(shown)
    total = images(5).pixels.sum().item()
    assert shown.epochs == [(1, pytest.approx(total / 3)), (2, pytest.approx(total / 3))]


def test_the_display_gets_the_terms_of_a_step_per_image_when_it_wants_them(bench):
    shown = Shown(wants=True)
    bench(loss=PixelSum(), train=2, batch_size=2).fit(shown)
    mean = images(2).pixels.sum().item() / 2
    [values] = shown.steps
    assert values == pytest.approx({"loss": mean, "rate": mean / 2, "distortion": mean / 4})


def test_the_display_gets_no_terms_when_it_does_not_want_them(bench):
    shown = Shown(wants=False)
    bench(train=5, batch_size=2).fit(shown)
    assert shown.steps == [None, None, None]
    assert shown.closed == 1


# The step


@pytest.mark.parametrize("batch_size", [2, 5])
def test_the_gradient_of_the_sum_is_that_of_the_mean_times_the_batch_size(bench, batch_size: int):
    gradients = []
    for reduction in ("sum", "mean"):
        made = bench(folder=reduction, reduction=reduction, train=batch_size, batch_size=batch_size).fit()
        gradients.append(torch.cat([each.grad.flatten() for each in made.vae.parameters()]))
    assert gradients[1].abs().max() > 0
    torch.testing.assert_close(gradients[0], batch_size * gradients[1])


def test_the_gradient_of_the_mean_divides_by_the_size_of_a_short_batch(bench):
    made = bench(loss=PixelSum(), reduction="mean", train=5, batch_size=3).fit()
    assert all(torch.allclose(each.grad, torch.tensor(2.0)) for each in made.vae.parameters())


def test_gradients_do_not_pile_up_over_steps(bench):
    made = bench(loss=PixelSum(), reduction="sum", train=4, batch_size=2, epochs=2).fit()
    assert all(torch.allclose(each.grad, torch.tensor(4.0)) for each in made.vae.parameters())


def test_training_lowers_the_loss(bench):
    losses = bench(lr=0.05, train=20, batch_size=5, epochs=30).fit().kept.column("train/loss")
    assert losses[-1] < losses[0] - 0.1


def test_the_same_seed_gives_the_same_run_and_another_seed_another(bench):
    losses = [
        bench(folder=str(run), lr=0.05, epochs=3, seed=seed).fit().kept.column("train/loss")
        for run, seed in enumerate([4, 4, 5])
    ]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_training_noise_differs_between_epochs(bench):
    first, second = bench(train=4, batch_size=4, epochs=2).fit().kept.column("train/distortion")
    assert first != second


# Validation


def test_validation_noise_is_the_same_each_epoch(bench):
    losses = bench(epochs=4).fit().kept.column("val/loss")
    assert len(losses) == 4
    assert len(set(losses)) == 1


def test_validation_is_of_the_loss_that_is_minimised_with_the_noise_of_evaluation(bench):
    made = bench(val=3, batch_size=3, seed=7)
    terms = ELBO()(made.vae.eval(), images(3, seed=1).pixels, make_generator(7, "evaluation", CPU))
    assert made.fit().kept.column("val/loss") == [pytest.approx(terms.loss.mean().item(), rel=1e-6)]


def test_without_validation_images_nothing_is_told_of_them(bench):
    [(_, line)] = bench(val=0).fit().kept.lines
    assert not [name for name in line if name.startswith("val/")]


# The schedule


def test_the_scheduler_is_stepped_once_an_epoch(bench):
    made = bench(lr=0.8, train=5, batch_size=1, epochs=3, scheduler=_halving)
    assert made.fit().kept.column("train/learning_rate") == [0.8, 0.4, 0.2]


def _halving(optimizer: SGD) -> StepLR:
    return StepLR(optimizer, step_size=1, gamma=0.5)


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


def test_the_best_checkpoint_is_the_epoch_of_the_lowest_monitor(bench):
    made = bench(loss=Scripted(train=[9.0, 8.0, 7.0, 6.0], val=[3.0, 1.0, 2.0, 1.0]), epochs=4).fit()
    best, last = made.checkpoint("best"), made.checkpoint("last")
    assert (best["epoch"], last["epoch"]) == (2, 4)
    for state in (best, last):
        found = {name: state["best"][name] for name in ("monitor", "value", "epoch")}
        assert found == {"monitor": "val/loss", "value": 1.0, "epoch": 2}


def test_the_monitor_may_be_a_metric_of_training(bench):
    script = Scripted(train=[9.0, 6.0, 7.0], val=[3.0, 2.0, 1.0])
    made = bench(loss=script, monitor="train/loss", epochs=3).fit()
    assert made.checkpoint("best")["epoch"] == 2


def test_a_checkpoint_holds_the_weights_of_its_epoch(bench):
    made = bench(lr=0.05, epochs=2).fit()
    torch.testing.assert_close(made.checkpoint("last")["vae"], dict(made.vae.state_dict()), rtol=0, atol=0)


def test_a_checkpoint_holds_what_continuing_would_need(bench):
    state = bench(epochs=2, scheduler=_halving).fit().checkpoint("last")
    assert state["config_hash"] == "0123abcd"
    assert (state["epoch"], state["step"]) == (2, 6)
    assert state["scheduler"]["last_epoch"] == 2
    assert state["optimizer"]["param_groups"]
    assert state["generators"].keys() == {"device", "shuffle", "noise", "process"}


# Ends


def test_training_ends_after_its_epochs(bench):
    position = bench(train=5, batch_size=2, epochs=3).fit().trainer.state
    assert (position.epoch, position.global_step, position.stopped_early) == (3, 9, False)
    assert position.train_seconds > 0


def test_early_stopping_stops_when_patience_runs_out(bench):
    script = Scripted(train=[1.0] * 9, val=[3.0, 2.0, 2.5, 2.5, 1.0, 1.0, 1.0, 1.0, 1.0])
    made = bench(loss=script, epochs=9, patience=2).fit()
    assert (made.trainer.state.epoch, made.trainer.state.stopped_early) == (4, True)
    assert made.checkpoint("best")["epoch"] == 2
    assert made.checkpoint("last")["epoch"] == 4


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_training_and_names_the_epoch(bench, value: float):
    made = bench(loss=Scripted(train=[2.0, 1.0, value], val=[1.0] * 3), epochs=5)
    with pytest.raises(DivergedError, match=rf"train/distortion is {value} in epoch 3 \(step 7\)"):
        made.fit()
    assert made.trainer.state.epoch == 2
    assert made.checkpoint("last")["epoch"] == 2


def test_a_diverged_run_keeps_finite_weights_in_its_last_checkpoint(bench):
    class Breaks(PixelSum):
        """The step of the second epoch has a loss that is not a number."""

        calls = 0

        def __call__(self, vae: VAE, batch: Tensor, generator: torch.Generator) -> LossTerms:
            self.calls += 1
            terms = super().__call__(vae, batch, generator)
            scale = float("nan") if self.calls == 2 else 1.0
            return LossTerms(terms.loss * scale, terms.distortion, terms.rate)

    made = bench(loss=Breaks(), train=4, val=0, batch_size=4, epochs=3)
    with pytest.raises(DivergedError):
        made.fit()
    torch.testing.assert_close(made.checkpoint("last")["vae"], dict(tiny_vae().state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_validation_loss_that_is_not_finite_ends_training(bench, value: float):
    made = bench(loss=Scripted(train=[2.0, 1.0], val=[1.0, value]), epochs=2)
    with pytest.raises(DivergedError, match=f"val/loss is {value} in epoch 2"):
        made.fit()
    assert made.checkpoint("last")["epoch"] == 1


def test_weights_that_are_not_finite_never_replace_a_good_checkpoint(bench):
    class Explodes(PixelSum):
        """The step of the second epoch has a finite loss and a gradient that is not a number."""

        calls = 0

        def __call__(self, vae: VAE, batch: Tensor, generator: torch.Generator) -> LossTerms:
            self.calls += 1
            if self.calls == 2:
                next(vae.parameters()).register_hook(lambda gradient: gradient * float("nan"))
            weights = torch.cat([each.flatten() for each in vae.parameters()])
            loss = batch.flatten(1).sum(dim=1) + weights.square().sum()
            return LossTerms(loss=loss, distortion=loss, rate=loss)

    made = bench(loss=Explodes(), lr=0.01, train=4, val=0, batch_size=4, epochs=3)
    with pytest.raises(DivergedError):
        made.fit()
    assert all(torch.isfinite(each).all() for each in made.checkpoint("last")["vae"].values())


def test_a_model_that_refuses_weights_that_are_not_finite_has_diverged_too(bench):
    class Refuses(PixelSum):
        """As torch.distributions with validate_args, which is its default."""

        def __call__(self, vae: VAE, batch: Tensor, generator: torch.Generator) -> LossTerms:
            terms = super().__call__(vae, batch, generator)
            if not terms.loss.isfinite().all():
                raise ValueError("Expected parameter loc to satisfy the constraint Real()")
            if vae.training:
                next(vae.parameters()).register_hook(lambda gradient: gradient * float("nan"))
            return terms

    with pytest.raises(DivergedError):
        bench(loss=Refuses(), lr=0.01, train=4, batch_size=4).fit()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_writes_its_last_checkpoint(bench, number: int):
    def interrupt(epoch: int) -> None:
        if epoch == 3:
            os.kill(os.getpid(), number)

    script = Scripted(train=[1.0] * 5, val=[1.0] * 5, act=interrupt)
    made, shown = bench(loss=script, train=5, batch_size=2, epochs=5), Shown()
    with pytest.raises(Interrupted) as caught:
        made.fit(shown)
    assert caught.value.signal_number == number
    last = made.checkpoint("last")
    assert (last["epoch"], last["step"]) == (2, 7)
    assert shown.closed == 1


def test_a_run_interrupted_in_its_first_epoch_leaves_a_checkpoint_too(bench):
    script = Scripted(train=[1.0], val=[1.0], act=lambda epoch: os.kill(os.getpid(), signal.SIGTERM))
    made = bench(loss=script, train=5, batch_size=2)
    with pytest.raises(Interrupted):
        made.fit()
    assert made.checkpoint("last")["epoch"] == 0
    assert not made.directory.checkpoint("best").exists()


def test_an_interruption_does_not_replace_a_good_checkpoint_by_weights_that_are_not_finite(bench):
    class Spoils(Shown):
        """After the first step of the second epoch the weights are no numbers, and Ctrl-C is pressed."""

        def step(self, values: Mapping[str, float] | None) -> None:
            super().step(values)
            if len(self.steps) == 4:
                with torch.no_grad():
                    next(made.vae.parameters()).fill_(float("nan"))
                os.kill(os.getpid(), signal.SIGINT)

    made = bench(loss=Scripted(train=[1.0] * 3, val=[1.0] * 3), train=5, batch_size=2, epochs=3)
    with pytest.raises(Interrupted):
        made.fit(Spoils(epochs=[]))
    assert all(torch.isfinite(each).all() for each in made.checkpoint("last")["vae"].values())


class _Signals(RecordingEvaluator):
    """An evaluator during which Ctrl-C is pressed."""

    def run(self, vae: VAE, images: ImageSet, generator: torch.Generator) -> Iterator[tuple[str, object]]:
        os.kill(os.getpid(), signal.SIGINT)
        yield from super().run(vae, images, generator)


@pytest.mark.parametrize("every", [0, 1])
def test_a_signal_during_an_evaluator_ends_the_run_before_the_next_evaluator(bench, every: int):
    later = RecordingEvaluator(every)
    made = bench(evaluators={"first": _Signals(every), "later": later})
    with GracefulShutdown() as guard, pytest.raises(Interrupted):
        _run_to_the_end(made.trainer, guard)
    assert later.images == []


def test_a_signal_during_the_last_batch_of_validation_ends_the_run_before_the_evaluators(bench):
    class Signals(PixelSum):
        def __call__(self, vae: VAE, batch: Tensor, generator: torch.Generator) -> LossTerms:
            if not vae.training:
                os.kill(os.getpid(), signal.SIGINT)
            return super().__call__(vae, batch, generator)

    later = RecordingEvaluator(every=1)
    made = bench(loss=Signals(), val=2, batch_size=2, evaluators={"later": later})
    with pytest.raises(Interrupted):
        made.fit()
    assert later.images == []


def _run_to_the_end(trainer: Trainer, guard: GracefulShutdown) -> None:
    trainer.fit(guard, Shown())
    trainer.run_final_evaluators(guard)


@pytest.mark.parametrize("every", [0, 1])
def test_a_signal_during_the_last_evaluator_is_not_lost(bench, every: int):
    made = bench(epochs=1, evaluators={"probe": _Signals(every)})
    with GracefulShutdown() as guard, pytest.raises(Interrupted):
        _run_to_the_end(made.trainer, guard)


def test_an_epoch_counts_only_once_it_has_been_told(bench):
    made = bench(train=5, batch_size=2, epochs=5, evaluators={"first": _Signals(every=2)})
    with pytest.raises(Interrupted):
        made.fit()
    [(step, line)] = made.kept.lines
    assert (step, line["epoch"], made.trainer.state.epoch) == (3, 1, 1)
    assert made.trainer.state.metrics["train/loss"] == line["train/loss"]
    last = made.checkpoint("last")
    assert (last["epoch"], last["step"]) == (1, 6)


# Evaluators


def test_evaluators_run_at_their_cadence(bench):
    made = bench(train=5, batch_size=5, epochs=5, evaluators={"probe": RecordingEvaluator(every=2)}).fit()
    assert [step for step, line in made.kept.lines if "val/probe" in line] == [2, 4]


def test_an_evaluator_without_cadence_runs_once_at_the_end(bench):
    probe = RecordingEvaluator(every=0)
    made = bench(train=5, batch_size=5, epochs=5, evaluators={"probe": probe}).fit()
    assert probe.images == []
    made.finish()
    assert len(probe.images) == 1
    assert made.kept.lines[-1] == (5, {"epoch": 5, "val/probe": 1.0})
    assert made.trainer.state.metrics["val/probe"] == 1.0
    assert "val/loss" in made.trainer.state.metrics


def test_an_evaluator_with_a_cadence_does_not_run_again_at_the_end(bench):
    probe = RecordingEvaluator(every=1)
    made = bench(epochs=2, evaluators={"probe": probe}).fit()
    made.finish()
    assert len(probe.images) == 2
    assert len(made.kept.lines) == 2


def test_evaluators_see_the_held_out_images(bench):
    probe, held_out = RecordingEvaluator(every=1), images(3, seed=9)
    bench(val=held_out, evaluators={"probe": probe}).fit()
    assert probe.images == [held_out]


def test_evaluators_see_the_training_images_where_none_are_held_out(bench):
    probe, train = RecordingEvaluator(every=1), images(5, seed=9)
    made = bench(train=train, val=0, evaluators={"probe": probe}).fit()
    assert probe.images == [train]
    assert made.kept.column("train/probe") == [1.0]


def test_without_validation_images_the_training_loss_can_be_monitored(bench):
    made = bench(loss=Scripted(train=[3.0, 1.0, 2.0]), val=0, epochs=3).fit()
    assert made.checkpoint("best")["epoch"] == 2


def test_evaluators_draw_the_same_noise_each_time_and_none_disturbs_another(bench):
    first, second = RecordingEvaluator(every=1), RecordingEvaluator(every=1, results={})
    bench(epochs=3, evaluators={"first": first, "second": second}).fit()
    assert len(first.draws + second.draws) == 6
    assert len({*first.draws, *second.draws}) == 1


def test_evaluators_do_not_disturb_training(bench):
    alone = bench(folder="alone", lr=0.05, epochs=3).fit().kept.column("train/loss")
    watched = bench(folder="watched", lr=0.05, epochs=3, evaluators={"probe": RecordingEvaluator(every=1)}).fit()
    assert watched.kept.column("train/loss") == alone


def test_an_evaluator_does_not_change_what_is_monitored(bench):
    script = Scripted(train=[1.0] * 4, val=[3.0, 2.0, 1.0, 2.0])
    made = bench(
        loss=script, epochs=4, evaluators={"probe": RecordingEvaluator(every=2, results={"loss": 0.5})}
    ).fit()
    assert made.checkpoint("best")["epoch"] == 3


def test_a_name_that_training_reports_stays_its_own_at_the_end_too(bench):
    script = Scripted(train=[1.0], val=[3.0])
    made = bench(
        loss=script, evaluators={"probe": RecordingEvaluator(every=0, results={"loss": 0.5, "score": 1.0})}
    ).fit()
    made.finish()
    metrics = made.trainer.state.metrics
    assert (metrics["val/loss"], metrics["val/score"]) == (3.0, 1.0)


def test_figures_are_saved_and_handed_to_the_trackers(bench):
    evaluator = RecordingEvaluator(every=2, results={"samples": Figure(figsize=(1, 1)), "score": 2})
    made = bench(train=5, batch_size=5, epochs=2, evaluators={"figures": evaluator}).fit()
    assert made.kept.figures == [(2, {"samples": made.directory.figures / "samples.png"})]
    assert made.kept.column("val/score") == [2.0]
    assert not made.kept.column("val/samples")


def test_figures_of_the_end_are_handed_to_the_trackers_too(bench):
    made = bench(
        evaluators={"figures": RecordingEvaluator(every=0, results={"samples": Figure(figsize=(1, 1))})}
    ).fit()
    assert made.kept.figures == []
    made.finish()
    assert [sorted(figures) for _, figures in made.kept.figures] == [["samples"]]


def test_every_tracker_line_is_plain_enough_for_json(bench):
    [(_, line)] = bench(evaluators={"probe": RecordingEvaluator(every=1)}).fit().kept.lines
    assert json.loads(json.dumps(line)) == line
