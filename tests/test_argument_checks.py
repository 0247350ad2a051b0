"""Checks of arguments: what they return, what they refuse, and the message."""

from math import inf, nan

import numpy as np
import pytest

from vae_exp.argument_checks import (
    check_auto_or_int,
    check_choice,
    check_int,
    check_number,
    check_optional_choice,
    check_optional_int,
    check_optional_number,
    check_widths,
)
from vae_exp.errors import UserError


def test_what_is_allowed_is_returned():
    assert [check_int("n", 1), check_int("n", 0, 0), check_int("n", 5, 2, 5)] == [1, 0, 5]
    assert check_number("x", 1, minimum=1, maximum=1) == 1.0
    assert isinstance(check_number("x", np.float32(0.5), above=0, below=1), float)
    assert check_auto_or_int("n", "auto") == "auto"
    assert check_choice("mode", False, ("auto", True, False)) is False
    assert isinstance(check_choice("variant", 2.0, (1, 2)), int)
    assert type(check_int("n", np.int64(3))) is type(check_auto_or_int("n", np.int64(3))) is int
    assert type(check_widths("dims", [np.int64(4)])[0]) is int
    assert check_widths("dims", (4, 2)) == [4, 2]
    assert check_widths("dims", []) == []
    nothing = (
        check_optional_int("n", None),
        check_optional_number("x", None),
        check_optional_choice("c", None, "ab"),
    )
    assert nothing == (None, None, None)


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: check_int("n", 0), "n=0 must be a whole number of at least 1."),
        (lambda: check_int("n", 2.0), "n=2.0 must be a whole number of at least 1."),
        (lambda: check_int("n", True), "n=true must be a whole number of at least 1."),
        (lambda: check_int("n", None, 2, 9), "n=null must be a whole number from 2 to 9."),
        (lambda: check_optional_int("n", 0), "n=0 must be a whole number of at least 1, or null."),
        (lambda: check_auto_or_int("n", "all"), "n=all must be auto or a whole number of at least 1."),
        (lambda: check_number("x", "1", minimum=0), "x=1 must be a finite number of at least 0."),
        (lambda: check_number("x", True, minimum=0), "x=true must be a finite number of at least 0."),
        (lambda: check_number("x", inf, above=0), "x=inf must be a finite number greater than 0."),
        (lambda: check_number("x", nan, maximum=1), "x=nan must be a finite number of at most 1."),
        (
            lambda: check_number("x", 0, above=0, maximum=1),
            "x=0 must be a finite number greater than 0 and at most 1.",
        ),
        (lambda: check_number("x", 2, 0, 1), "x=2 must be a finite number from 0 to 1."),
        (lambda: check_number("x", -(10**400), 0), f"x={-(10**400)} must be a finite number of at least 0."),
        (lambda: check_number("x", nan), "x=nan must be a finite number."),
        (
            lambda: check_optional_number("x", 1, above=0, below=1),
            "x=1 must be a finite number greater than 0 and below 1, or null.",
        ),
        (lambda: check_choice("c", 1, ("auto", True, False)), "c=1 must be one of auto, true, false."),
        (lambda: check_choice("c", True, (1, 3)), "c=true must be one of 1, 3."),
        (lambda: check_optional_choice("c", 2, (1, 3)), "c=2 must be one of 1, 3, or null."),
        (lambda: check_widths("dims", [4, 0]), "dims=[4, 0] must be a list of widths of at least 1."),
        (lambda: check_widths("dims", ""), "dims= must be a list of widths of at least 1."),
        (lambda: check_widths("dims", 4), "dims=4 must be a list of widths of at least 1."),
    ],
)
def test_what_is_not_is_refused_by_name_and_value(check, message: str):
    with pytest.raises(ValueError, match="must be") as refused:
        check()
    assert str(refused.value) == message
    assert isinstance(refused.value, UserError)
