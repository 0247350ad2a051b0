import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vae_exp.objective.beta_vae import BetaVAE
from vae_exp.objective.elbo import ELBO
from vae_exp.objective.schedules import (
    Cosine,
    Cyclical,
    Linear,
    LossSchedules,
    ScheduledValue,
    as_scalar,
    value_of,
)

CPU = torch.device("cpu")


def test_a_line_rises_and_stays():
    schedule = Linear(2.0, 4.0, duration=10)
    assert [schedule.value_at(each) for each in (0, 5, 10, 11, 1000)] == [2.0, 3.0, 4.0, 4.0, 4.0]


def test_a_cosine_is_half_way_in_the_middle_and_flat_at_both_ends():
    schedule = Cosine(0.0, 1.0, duration=100)
    assert schedule.value_at(25) == pytest.approx((1 - math.cos(math.pi / 4)) / 2)
    assert schedule.value_at(50) == pytest.approx(0.5)
    assert schedule.value_at(1) < 0.001
    assert schedule.value_at(99) > 0.999


def test_a_cycle_rises_for_its_share_and_starts_again():
    """Four cycles of 10 in 40, the first half of each rising."""
    schedule = Cyclical(0.0, 1.0, duration=40, cycles=4, rise=0.5)
    assert [schedule.value_at(each) for each in (0, 1, 5, 9, 10, 12.5, 35, 39, 40, 99)] == pytest.approx(
        [0, 0.2, 1, 1, 0, 0.5, 1, 1, 1, 1]
    )


@given(
    st.sampled_from([Linear, Cosine, Cyclical]),
    st.floats(-5, 5),
    st.floats(-5, 5),
    st.floats(0.1, 1e4),
    st.floats(0, 2e4),
)
def test_every_schedule_begins_at_its_start_ends_at_its_end_and_stays_between(kind, start, end, duration, elapsed):
    schedule = kind(start, end, duration, unit="step")
    assert schedule.value_at(0) == pytest.approx(start)
    assert schedule.value_at(duration) == schedule.final_value() == pytest.approx(end)
    assert min(start, end) - 1e-9 <= schedule.value_at(elapsed) <= max(start, end) + 1e-9


@pytest.mark.parametrize(
    ("kind", "arguments", "told"),
    [
        (Linear, {"duration": 0}, "duration=0"),
        (Linear, {"duration": 5, "unit": "batch"}, "unit=batch must be one of epoch, step"),
        (Cyclical, {"duration": 5, "cycles": 0}, "cycles=0"),
        (Cyclical, {"duration": 50, "cycles": 4.5}, "cycles=4.5 must be a whole number"),
        (Cyclical, {"duration": 7, "cycles": 4}, "cycles=4 of duration=7 epochs: a cycle of fewer than 2 epochs"),
        (Cyclical, {"duration": 8, "rise": 0.0}, "rise=0"),
        (Cyclical, {"duration": 8, "rise": 1.5}, "rise=1.5"),
    ],
)
def test_what_makes_no_schedule_is_refused(kind, arguments, told):
    with pytest.raises(ValueError, match=told):
        kind(0.0, 1.0, **arguments)


@pytest.mark.parametrize(
    "given", [-1.0, float("nan"), float("inf"), "much", None, True, Linear(-1, 1, 5), Linear(1, -1, 5)]
)
def test_a_scalar_out_of_range_is_refused(given):
    with pytest.raises(ValueError, match=r"loss\.beta="):
        as_scalar("loss.beta", given, minimum=0)


def test_a_number_stays_a_number():
    assert value_of(as_scalar("loss.beta", 3)) == 3.0


def test_the_value_changes_in_its_place():
    """A CUDA graph reads the very memory that it was recorded with."""
    scheduled = ScheduledValue(Linear(0.0, 1.0, 10))
    place = scheduled.value.data_ptr()
    scheduled.set(0.25)
    assert value_of(scheduled).item() == 0.25
    assert scheduled.value.data_ptr() == place


def test_epochs_and_steps_are_counted_apart():
    loss = BetaVAE(Linear(0.0, 1.0, duration=4, unit="epoch"))
    schedules = LossSchedules(loss, CPU)
    schedules.begin_epoch(epochs=1, steps=600)
    assert schedules.values() == {"beta": 0.25}
    schedules.begin_step(steps=900)
    assert schedules.values() == {"beta": 0.25}
    by_step = LossSchedules(BetaVAE(Linear(0.0, 1.0, duration=1000, unit="step")), CPU)
    by_step.begin_epoch(epochs=1, steps=500)
    assert by_step.values() == {"beta": 0.5}
    by_step.begin_step(steps=750)
    assert by_step.values() == {"beta": 0.75}


def test_for_the_length_of_a_block_schedules_are_at_their_end():
    schedules = LossSchedules(BetaVAE(Linear(0.0, 1.0, duration=4)), CPU)
    with schedules.at_end():
        assert schedules.values() == {"beta": 1.0}
    assert schedules.values() == {"beta": 0.0}


def test_a_loss_without_schedules_has_none():
    schedules = LossSchedules(ELBO(), CPU)
    schedules.begin_epoch(1, 1)
    schedules.begin_step(1)
    assert schedules.values() == {}
