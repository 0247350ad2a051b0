from math import inf, nan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_exp.engine.early_stopping import EarlyStopping


def _after(values: list[float], patience: int | None, min_delta: float = 0.0) -> EarlyStopping:
    best = EarlyStopping(patience, min_delta)
    for epoch, value in enumerate(values, start=1):
        best.update(value, epoch)
    return best


def test_nothing_is_best_before_the_first_epoch():
    best = EarlyStopping(patience=1, min_delta=0.0)
    assert (best.value, best.epoch, best.should_stop) == (inf, 0, False)


def test_the_lowest_value_and_its_epoch_are_known():
    best = _after([5.0, 3.0, 4.0, 3.0], patience=None)
    assert (best.value, best.epoch) == (3.0, 2)


def test_update_says_whether_the_value_is_the_best_so_far():
    best = EarlyStopping(patience=None, min_delta=0.0)
    assert [best.update(value, epoch) for epoch, value in enumerate([5.0, 6.0, 4.0, 4.0], 1)] == [
        True,
        False,
        True,
        False,
    ]


@pytest.mark.parametrize(("values", "should_stop"), [([3.0, 4.0], False), ([3.0, 4.0, 4.0], True)])
def test_patience_counts_epochs_without_improvement(values: list[float], should_stop: bool):
    assert _after(values, patience=2).should_stop is should_stop


def test_an_improvement_renews_patience():
    assert not _after([3.0, 4.0, 2.0, 4.0], patience=2).should_stop


def test_an_equal_value_is_no_improvement():
    assert _after([3.0, 3.0], patience=1).should_stop


def test_without_patience_it_never_stops():
    assert not _after([1.0] + [2.0] * 1000, patience=None).should_stop


def test_less_than_min_delta_is_the_best_but_no_improvement():
    best = _after([3.0, 2.95], patience=1, min_delta=0.1)
    assert (best.value, best.epoch) == (2.95, 2)
    assert best.should_stop


def test_small_steps_count_once_they_add_up_to_min_delta():
    assert not _after([3.0, 2.95, 2.85], patience=2, min_delta=0.1).should_stop


@pytest.mark.parametrize("value", [nan, inf])
def test_a_value_that_is_not_finite_is_stale_and_never_the_best(value: float):
    best = _after([3.0, value], patience=1)
    assert (best.value, best.epoch) == (3.0, 1)
    assert best.should_stop


def test_minus_infinity_is_never_the_best():
    best = _after([3.0, -inf], patience=None)
    assert (best.value, best.epoch) == (3.0, 1)


def test_a_run_that_is_never_finite_has_no_best():
    best = _after([nan, nan], patience=2)
    assert (best.value, best.epoch, best.should_stop) == (inf, 0, True)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(
    st.lists(st.sampled_from([1.0, 1.5, 2.0, 3.0, nan, inf]), max_size=12),
    st.integers(min_value=0, max_value=12),
    st.sampled_from([None, 1, 2, 3]),
    st.sampled_from([0.0, 0.6]),
)
def test_a_run_that_goes_on_stops_where_one_that_was_never_interrupted_does(values, epochs, patience, min_delta):
    whole, first, second = (EarlyStopping(patience, min_delta) for _ in range(3))
    for epoch, value in enumerate(values, start=1):
        improved = whole.update(value, epoch)
        if epoch <= epochs:
            assert first.update(value, epoch) == improved
            second.load_state_dict(first.state_dict())
        else:
            assert second.update(value, epoch) == improved
            assert second.should_stop == whole.should_stop
            assert (second.value, second.epoch) == (whole.value, whole.epoch)


def test_patience_may_be_another_after_an_interruption():
    state = _after([3.0, 4.0, 4.0], patience=2).state_dict()
    renewed = EarlyStopping(patience=3, min_delta=0.0)
    renewed.load_state_dict(state)
    assert not renewed.should_stop
    renewed.update(4.0, 4)
    assert renewed.should_stop
