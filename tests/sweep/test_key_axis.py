import pytest
from matplotlib.figure import Figure

from vae_exp.sweep.aggregate import Group
from vae_exp.sweep.key_axis import KeyAxis


def _axis(*values: str) -> KeyAxis:
    return KeyAxis([Group({"key": value}, 1, {}) for value in values], "key")


def _names_below(axis: KeyAxis) -> list[str]:
    axes = Figure().subplots()
    axis.lay_along(axes, "x")
    return [label.get_text() for label in axes.get_xticklabels()]


def test_few_numbers_stand_where_they_belong_and_are_all_named():
    axis = _axis("16", "2", "8")
    assert [axis.position(value) for value in axis.values] == [2.0, 8.0, 16.0]
    assert [axis.height(value) for value in axis.values] == [0.0, 0.5, 1.0]
    assert axis.marks() == [(0.0, "2"), (0.5, "8"), (1.0, "16")]
    assert _names_below(axis) == ["2", "8", "16"]


def test_many_numbers_lie_by_their_size_between_five_marks():
    axis = _axis(*(f"{10.0**power:g}" for power in range(-9, 1)))
    assert axis.is_log
    assert axis.height("1e-09") == 0
    assert axis.height("0.001") == pytest.approx(6 / 9)
    assert axis.height("1") == 1
    assert len(axis.marks()) == 5
    assert (axis.marks()[0][1], axis.marks()[-1][1]) == ("1e-09", "1")


def test_numbers_of_one_size_or_below_zero_lie_on_a_linear_axis():
    assert not _axis("4", "5").is_log
    assert not _axis("-1", "100").is_log
    assert not _axis("0", "100").is_log


def test_words_stand_one_after_the_other():
    axis = _axis("elbo", "3", "iwae")
    assert not axis.is_numeric
    assert [axis.position(value) for value in axis.values] == [0.0, 1.0, 2.0]
    assert _names_below(axis) == axis.values


def test_names_that_would_cover_each_other_are_left_out():
    assert _names_below(_axis("2", "59", "61", "61.5")) == ["2", "59", "", ""]


def test_a_single_value_stands_in_the_middle():
    assert _axis("2").height("2") == 0.5
    assert _axis("elbo").height("elbo") == 0.5
