"""Warnings of posterior collapse."""

import logging

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal

from tests.builders import CPU, RecordingTracker, fit, grey_images, make_trainer, small_vae, weights
from vae_exp.engine.checkpoint import load_checkpoint
from vae_exp.engine.posterior_collapse import PosteriorCollapseMonitor
from vae_exp.engine.trainer import Trainer
from vae_exp.model.vae import VAE
from vae_exp.objective.beta_vae import BetaVAE
from vae_exp.objective.elbo import ELBO
from vae_exp.objective.schedules import Cyclical, Linear, LossSchedules


class Scaled(nn.Module):
    """An encoder whose units move with the image by `reach`."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.reach = torch.ones(units)

    def forward(self, images: torch.Tensor) -> Independent:
        moved = torch.linspace(-1, 1, len(images)).unsqueeze(1) * self.reach
        return Independent(Normal(moved, 1.0), 1)


def make_monitor(
    units: int = 20, schedules: LossSchedules | None = None
) -> tuple[PosteriorCollapseMonitor, Scaled]:
    encoder = Scaled(units)
    vae = VAE(encoder, nn.Identity(), nn.Identity())
    return PosteriorCollapseMonitor(vae, grey_images(50), schedules or LossSchedules(ELBO(), CPU)), encoder


def updates(monitor: PosteriorCollapseMonitor, *rates: float) -> list[dict[str, str]]:
    return [monitor.update({"train/rate": rate}) for rate in rates]


def test_a_rate_that_goes_to_nothing_is_found_with_a_remedy():
    monitor, _ = make_monitor()
    *before, last = updates(monitor, 0.02, 5.0, 0.2, 0.001, 0.01, 0.001)
    assert not any(before)
    message = last["posterior_collapse"]
    assert "the rate is 0.001 nats per image" in message
    assert "loss=free_bits" in message
    assert "(loss=beta_vae +loss/schedule@loss.beta=linear)" in message


@pytest.mark.parametrize(("rate", "warns"), [(0.09, True), (0.11, False)])
def test_a_rate_below_a_tenth_of_a_nat_is_a_collapse(rate: float, warns: bool):
    monitor, _ = make_monitor()
    assert bool(updates(monitor, 5.0, rate, rate, rate)[-1]) == warns


def test_a_rate_that_still_rises_is_no_collapse():
    monitor, _ = make_monitor()
    rates = (0.383, 0.415, 0.0447, 0.0321, 0.0514, 0.152, 0.45)  # data=digits, with seed 0
    assert not any(updates(monitor, *rates))


def test_a_small_rate_is_no_collapse_while_a_schedule_is_on_its_way():
    schedules = LossSchedules(BetaVAE(Linear(0.0, 1.0, 3)), CPU)
    monitor, _ = make_monitor(schedules=schedules)
    for epoch in range(3):
        schedules.begin_epoch(epoch, 0)
        assert not monitor.update({"train/rate": 0.0})
    schedules.begin_epoch(3, 0)
    assert [list(warnings) for warnings in updates(monitor, 0.0, 0.0, 0.0)] == [[], [], ["posterior_collapse"]]


def test_a_small_rate_is_no_collapse_before_the_last_cycle_of_a_schedule_has_ended():
    schedules = LossSchedules(BetaVAE(Cyclical(0.0, 1.0, duration=40, cycles=4, rise=0.5)), CPU)
    monitor, _ = make_monitor(schedules=schedules)
    for epoch in range(40):
        schedules.begin_epoch(epoch, 0)
        assert not monitor.update({"train/rate": 0.0})


def test_units_that_die_are_found_with_their_number():
    monitor, encoder = make_monitor(units=20)
    updates(monitor, 5.0, 5.0, 5.0)
    encoder.reach[:2] = 0.01  # a tenth of them may come and go
    assert not any(updates(monitor, 5.0, 5.0, 5.0))
    encoder.reach[:7] = 0.01
    *before, last = updates(monitor, 5.0, 5.0, 5.0)
    assert not any(before)  # an epoch or two may be a bad one
    assert "13 of 20 latent units are active, and 7 that were in use" in last["dead_units"]


@pytest.mark.parametrize(("variance", "dies"), [(0.009, True), (0.011, False)])
def test_a_unit_is_dead_below_a_hundredth_of_the_priors_variance(variance: float, dies: bool):
    monitor, encoder = make_monitor(units=20)
    updates(monitor, 5.0, 5.0, 5.0)
    encoder.reach[:7] = (variance / torch.linspace(-1, 1, 50).var(correction=0)).sqrt()
    assert bool(updates(monitor, 5.0, 5.0, 5.0)[-1]) == dies


@pytest.mark.parametrize(
    ("units", "changing", "reaches"),
    [
        (20, 15, (0.4, 0.4, 0.4, 0.4, 0.01, 0.01, 0.01, 0.01)),  # never in use: variances of 0.06 and 4e-5
        (8, 2, (1.0, 1.0, 0.0, 0.0, 0.0, 0.0)),  # in use for the first epochs only
    ],
)
def test_units_that_were_not_in_use_for_long_have_not_died(units: int, changing: int, reaches: tuple[float, ...]):
    monitor, encoder = make_monitor(units)
    for reach in reaches:
        encoder.reach[:changing] = reach
        assert not monitor.update({"train/rate": 5.0})


def test_a_monitor_that_is_restored_counts_on():
    first, encoder = make_monitor(units=20)
    updates(first, 5.0, 5.0, 5.0)
    encoder.reach[:7] = 0.0
    updates(first, 0.01, 0.01)
    second, other = make_monitor(units=20)
    other.reach[:7] = 0.0
    second.load_state_dict(first.state_dict())
    assert second.update({"train/rate": 0.01}) == first.update({"train/rate": 0.01})
    assert list(first.update({"train/rate": 0.01})) == ["posterior_collapse", "dead_units"]


@pytest.mark.parametrize("held_out", [0, 5])
def test_a_run_is_the_same_with_and_without_it(tmp_path, held_out: int):
    runs = []
    for is_monitored in (True, False):
        vae, tracker = small_vae(), RecordingTracker()
        trainer = make_trainer(
            tmp_path / str(is_monitored),
            train=grey_images(11),
            val=grey_images(held_out, seed=1),
            vae=vae,
            warn_posterior_collapse=is_monitored,
            trackers=[tracker],
        )
        fit(trainer)
        runs.append((weights(vae).tolist(), tracker.rows()))
    assert runs[0] == runs[1]


def test_a_run_whose_rate_vanishes_says_so_once_and_keeps_it(tmp_path, caplog):
    tracker = RecordingTracker()
    with caplog.at_level(logging.WARNING):
        images, loss = grey_images(40), BetaVAE(500.0)
        trainer = make_trainer(
            tmp_path, train=images, loss=loss, epochs=30, warn_posterior_collapse=True, trackers=[tracker]
        )
        fit(trainer)
    [warning] = trainer.warnings
    assert warning["name"] == "posterior_collapse"
    assert 3 <= warning["epoch"] < 30
    assert caplog.text.count("Posterior collapse, epoch") == 1
    assert tracker.warnings == [("posterior collapse", f"epoch {warning['epoch']}: {warning['message']}")]

    resumed = make_trainer(tmp_path, train=images, loss=loss, epochs=32, warn_posterior_collapse=True)
    resumed.load_state_dict(load_checkpoint(tmp_path / "checkpoints" / "last.pt", CPU))
    fit(resumed)
    assert resumed.warnings == [warning]


def test_a_run_that_is_resumed_warns_in_the_same_epoch(tmp_path):
    settings = {"train": grey_images(40), "loss": BetaVAE(500.0), "warn_posterior_collapse": True}
    whole = make_trainer(tmp_path / "whole", epochs=30, **settings)
    fit(whole)
    [warning] = whole.warnings
    first = make_trainer(tmp_path / "first", epochs=warning["epoch"] - 1, **settings)
    fit(first)
    assert not first.warnings
    resumed = make_trainer(tmp_path / "resumed", epochs=warning["epoch"], **settings)
    resumed.load_state_dict(first.state_dict())
    fit(resumed)
    assert resumed.warnings == [warning]


def test_steps_that_cannot_be_captured_are_kept_as_a_warning(tmp_path, caplog, monkeypatch):
    trainer = make_trainer(tmp_path, train=grey_images(8), epochs=2)
    monkeypatch.setattr(Trainer, "_graph_fallback", "an attribute changes")
    fit(trainer)
    assert not caplog.records
    [warning] = trainer.warnings
    assert (warning["name"], warning["epoch"]) == ("no_cuda_graph", 1)
    assert "an attribute changes" in warning["message"]


def test_it_looks_in_single_precision(monkeypatch: pytest.MonkeyPatch):
    """Torch's default lets CUDA round the factors of convolutions."""
    monitor, encoder = make_monitor()
    seen = []
    encoder.register_forward_hook(lambda *_: seen.append(torch.backends.cudnn.allow_tf32))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    updates(monitor, 1.0)
    assert seen == [False]
