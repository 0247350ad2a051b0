from math import inf, nan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_exp.engine.early_stopping import EarlyStopping


@pytest.mark.parametrize(
    ("values", "patience", "min_delta", "best", "should_stop"),
    [
        ([], 1, 0.0, (inf, 0), False),
        ([5.0, 3.0, 4.0, 3.0], None, 0.0, (3.0, 2), False),
        ([3.0, 4.0], 2, 0.0, (3.0, 1), False),
        ([3.0, 4.0, 4.0], 2, 0.0, (3.0, 1), True),
        ([3.0, 4.0, 2.0, 4.0], 2, 0.0, (2.0, 3), False),
        ([3.0, 3.0], 1, 0.0, (3.0, 1), True),
        ([1.0] + [2.0] * 1000, None, 0.0, (1.0, 1), False),
        ([3.0, 2.95], 1, 0.1, (2.95, 2), True),  # the best, but no improvement
        ([3.0, 2.95, 2.85], 2, 0.1, (2.85, 3), False),  # small steps add up to min_delta
        ([3.0, nan], 1, 0.0, (3.0, 1), True),
        ([3.0, inf], 1, 0.0, (3.0, 1), True),
        ([3.0, -inf], None, 0.0, (3.0, 1), False),
        ([nan, nan], 2, 0.0, (inf, 0), True),
    ],
)
def test_the_best_value_and_when_to_stop(values, patience, min_delta, best, should_stop):
    stopping = EarlyStopping(patience, min_delta)
    improved = [epoch for epoch, value in enumerate(values, start=1) if stopping.update(value, epoch)]
    assert (stopping.value, stopping.epoch) == best
    assert (improved or [0])[-1] == stopping.epoch
    assert stopping.should_stop is should_stop


@settings(max_examples=200)
@given(
    st.lists(st.sampled_from([1.0, 1.5, 2.0, 3.0, nan, inf]), max_size=12),
    st.integers(min_value=0, max_value=12),
    st.sampled_from([None, 1, 2, 3]),
    st.sampled_from([0.0, 0.6]),
)
def test_a_resumed_run_stops_where_an_uninterrupted_one_does(values, epochs, patience, min_delta):
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


def test_patience_may_change_on_resume():
    stopping, resumed = EarlyStopping(2, 0.0), EarlyStopping(3, 0.0)
    for epoch, value in enumerate([3.0, 4.0, 4.0], start=1):
        stopping.update(value, epoch)
    resumed.load_state_dict(stopping.state_dict())
    assert (stopping.should_stop, resumed.should_stop) == (True, False)
    resumed.update(4.0, 4)
    assert resumed.should_stop
