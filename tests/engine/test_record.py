from math import inf, isfinite, nan

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vae_exp.engine.train_step import EpochLossBuffer

CPU = torch.device("cpu")
reproducibly = settings(deadline=None, derandomize=True, max_examples=60)
values = st.floats(min_value=-1e6, max_value=1e6, width=32)
rows = st.lists(st.tuples(values, values, values), min_size=1, max_size=20)
strange = st.sampled_from([nan, inf, -inf])


def record_of(given_rows: list[tuple[float, float, float]], steps: int | None = None) -> EpochLossBuffer:
    record = EpochLossBuffer(steps or len(given_rows), CPU)
    record.start_epoch()
    for row in given_rows:
        record.append(torch.tensor(row))
    return record


@reproducibly
@given(rows)
def test_steps_are_kept_in_their_order(given_rows):
    assert torch.equal(record_of(given_rows, steps=25).rows[: len(given_rows)], torch.tensor(given_rows))


@reproducibly
@given(rows)
def test_totals_are_summed_in_double_precision(given_rows):
    expected = torch.tensor(given_rows, dtype=torch.float32).double().sum(dim=0)
    totals = record_of(given_rows).totals()
    assert totals.dtype == torch.float64
    torch.testing.assert_close(totals, expected, rtol=1e-14, atol=0)


def test_many_small_sums_are_not_lost_beside_a_large_one():
    record = record_of([(2.0**24, 0.0, 0.0)] + [(1.0, 0.0, 0.0)] * 1000)
    assert record.totals()[0].item() == 2**24 + 1000


@reproducibly
@given(rows, st.data())
def test_an_epoch_that_goes_on_has_the_rows_of_one_that_was_never_interrupted(given_rows, data):
    done = data.draw(st.integers(min_value=0, max_value=len(given_rows)))
    whole, resumed = record_of(given_rows), record_of([(1.0, 2.0, 3.0)], steps=len(given_rows))
    resumed.start_epoch(torch.tensor(given_rows)[:done])
    for row in given_rows[done:]:
        resumed.append(torch.tensor(row))
    assert torch.equal(resumed.rows, whole.rows)
    assert torch.equal(resumed.totals(), whole.totals())


def test_a_new_epoch_starts_from_nothing():
    record = record_of([(1.0, 2.0, 3.0)] * 3)
    record.start_epoch()
    assert record.totals().tolist() == [0.0, 0.0, 0.0]
    record.append(torch.ones(3))
    assert record.rows.tolist() == [[1.0] * 3, [0.0] * 3, [0.0] * 3]


def test_rows_stay_in_the_same_memory():
    record = record_of([(1.0, 2.0, 3.0)] * 2)
    place = record.rows.data_ptr()
    record.start_epoch(torch.ones(1, 3))
    record.append(torch.ones(3))
    assert record.rows.data_ptr() == place


@reproducibly
@given(rows, st.data())
def test_the_first_value_that_is_not_finite_is_found(given_rows, data):
    rows_of_lists = [list(row) for row in given_rows]
    for _ in range(data.draw(st.integers(min_value=0, max_value=3))):
        step = data.draw(st.integers(min_value=0, max_value=len(given_rows) - 1))
        rows_of_lists[step][data.draw(st.integers(min_value=0, max_value=2))] = data.draw(strange)
    expected = next(
        (
            (step, name)
            for step, row in enumerate(rows_of_lists)
            for name, value in zip(("distortion", "rate", "loss"), [*row[1:], row[0]], strict=True)
            if not isfinite(value)
        ),
        None,
    )
    found = record_of([tuple(row) for row in rows_of_lists]).first_non_finite()
    assert (None if found is None else found[:2]) == expected


@pytest.mark.parametrize("value", [inf, -inf])
def test_what_is_found_says_its_value(value: float):
    sums: Tensor = torch.tensor([1.0, 2.0, value])
    record = EpochLossBuffer(2, CPU)
    record.start_epoch()
    record.append(torch.zeros(3))
    record.append(sums)
    assert record.first_non_finite() == (1, "rate", value)
