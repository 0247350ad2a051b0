"""Warnings when latents tell nothing any more."""

import logging

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal

from tests.engine.runs import CPU, fit, grey_images, make_trainer, small_vae, weights
from vae_exp.engine.collapse import CollapseMonitor
from vae_exp.model.vae import VAE
from vae_exp.objective.beta_vae import BetaVAE
from vae_exp.objective.elbo import ELBO
from vae_exp.objective.schedules import Linear, LossSchedules


class Scaled(nn.Module):
    """An encoder whose units move with the image as far as it is told."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.reach = torch.ones(units)

    def forward(self, images: torch.Tensor) -> Independent:
        moved = torch.linspace(-1, 1, len(images)).unsqueeze(1) * self.reach
        return Independent(Normal(moved, 1.0), 1)


def monitor(units: int = 20, schedules: LossSchedules | None = None) -> tuple[CollapseMonitor, Scaled]:
    encoder = Scaled(units)
    vae = VAE(encoder, nn.Identity(), nn.Identity())
    return CollapseMonitor(vae, grey_images(50), schedules or LossSchedules(ELBO(), CPU)), encoder


def test_a_rate_that_goes_to_nothing_is_told_once_with_a_remedy(caplog):
    watch, _ = monitor()
    with caplog.at_level(logging.WARNING):
        for rate in (0.02, 5.0, 0.2, 0.001, 0.01, 0.001, 0.001):
            watch.look({"train/rate": rate})
    [record] = caplog.records
    assert "The rate is 0.001 nats per image" in record.getMessage()
    assert "loss=free_bits" in record.getMessage()
    assert "(loss=beta_vae +loss/schedule@loss.beta=linear)" in record.getMessage()


def test_a_rate_that_still_rises_is_not_told(caplog):
    watch, _ = monitor()
    with caplog.at_level(logging.WARNING):
        for rate in (0.383, 0.415, 0.0447, 0.0321, 0.0514, 0.152, 0.45):  # data=digits, with seed 0
            watch.look({"train/rate": rate})
    assert not caplog.records


def test_a_small_rate_is_not_told_while_a_schedule_is_on_its_way(caplog):
    schedules = LossSchedules(BetaVAE(Linear(0.0, 1.0, 3)), CPU)
    watch, _ = monitor(schedules=schedules)
    with caplog.at_level(logging.WARNING):
        for epoch in range(3):
            schedules.begin_epoch(epoch, 0)
            watch.look({"train/rate": 0.0})
        assert not caplog.records
        schedules.begin_epoch(3, 0)
        for _ in range(3):
            watch.look({"train/rate": 0.0})
    assert len(caplog.records) == 1


def test_units_that_die_are_told_once_with_their_number(caplog):
    watch, encoder = monitor(units=20)
    with caplog.at_level(logging.WARNING):
        watch.look({"train/rate": 5.0})
        encoder.reach[:2] = 0.01  # a tenth of them may come and go
        watch.look({"train/rate": 5.0})
        assert not caplog.records
        encoder.reach[:7] = 0.01
        watch.look({"train/rate": 5.0})
        encoder.reach[:9] = 0.01
        watch.look({"train/rate": 5.0})
    [record] = caplog.records
    assert "13 of 20 latent units are active, 7 fewer than before" in record.getMessage()


def test_units_that_were_never_active_have_not_died(caplog):
    watch, encoder = monitor(units=20)
    encoder.reach[:15] = 0.0
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            watch.look({"train/rate": 5.0})
    assert not caplog.records


@pytest.mark.parametrize("held_out", [0, 5])
def test_a_run_is_the_same_with_and_without_it(tmp_path, held_out: int):
    found = []
    for watched in (True, False):
        vae = small_vae()
        val = grey_images(held_out, seed=1) if held_out else None
        trainer = make_trainer(
            tmp_path / str(watched), train=grey_images(11), val=val, vae=vae, collapse_monitor=watched
        )
        fit(trainer)
        found.append((weights(vae), {k: v for k, v in trainer.position.metrics.items() if "time" not in k}))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


def test_a_run_whose_rate_vanishes_says_so(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        fit(make_trainer(tmp_path, train=grey_images(40), loss=BetaVAE(500.0), epochs=30, collapse_monitor=True))
    assert "the latents tell next to nothing of it" in caplog.text
