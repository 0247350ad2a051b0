"""Checks of single arguments of constructors; docs/reference/config.md shows what they allow.

Each is called as `check_…(name, value, limits)` and returns the value, or raises an `ArgumentError` that reads
`name=value must be …`. The name is the key of the config, or its last part.
"""

from collections.abc import Callable, Collection, Sequence
from math import isfinite
from numbers import Integral, Real
from typing import TypeGuard, TypeVar

from vae_exp.errors import ArgumentError

T = TypeVar("T")


def check_int(name: str, value: object, minimum: int = 1, maximum: int | None = None) -> int:
    """Return the value if it is an integer between the bounds, both included.

    Raises:
        ArgumentError: names the argument, its value and the bounds.
    """
    if not is_int(value, minimum) or (maximum is not None and int(value) > maximum):
        raise refusal(name, value, _numbers("a whole number", minimum, maximum))
    return int(value)


def check_optional_int(name: str, value: object, minimum: int = 1) -> int | None:
    """Return the value if it is None or an integer of at least `minimum`.

    Raises:
        ArgumentError: as `check_int`.
    """
    return None if value is None else or_else("null", lambda: check_int(name, value, minimum))


def check_auto_or_int(name: str, value: object) -> int | str:
    """Return the value if it is `auto` or an integer of at least 1.

    Raises:
        ArgumentError: names the argument and its value.
    """
    if value == "auto":
        return "auto"
    if not is_int(value, 1):
        raise refusal(name, value, "auto or a whole number of at least 1")
    return int(value)


def check_number(
    name: str,
    value: float,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> float:
    """Return the value as a float if it is finite and in the range.

    Args:
        name: Of the argument, for the message.
        value: Its value.
        minimum: The least value.
        maximum: The greatest value.
        above: A value that all allowed ones are greater than.
        below: A value that all allowed ones are less than.

    Raises:
        ArgumentError: names the argument, its value and the range.
    """
    is_number = isinstance(value, Real) and not isinstance(value, bool) and _is_finite(value)
    if (
        not is_number
        or (minimum is not None and value < minimum)
        or (maximum is not None and value > maximum)
        or (above is not None and value <= above)
        or (below is not None and value >= below)
    ):
        raise refusal(name, value, _numbers("a finite number", minimum, maximum, above, below))
    return float(value)


def check_optional_number(
    name: str, value: float | None, above: float | None = None, below: float | None = None
) -> float | None:
    """Return the value if it is None or a number between the bounds, both excluded.

    Raises:
        ArgumentError: as `check_number`.
    """
    return None if value is None else or_else("null", lambda: check_number(name, value, above=above, below=below))


def check_choice(name: str, value: T, choices: Collection[T]) -> T:
    """Return the choice that the value is equal to; 1 and true are not equal.

    Raises:
        ArgumentError: names the argument, its value and the choices.
    """
    for choice in choices:
        if value == choice and isinstance(choice, bool) == isinstance(value, bool):
            return choice
    raise refusal(name, value, f"one of {', '.join(map(_as_yaml, choices))}")


def check_optional_choice(name: str, value: T | None, choices: Collection[T]) -> T | None:
    """Return the value if it is None or one of the choices.

    Raises:
        ArgumentError: as `check_choice`.
    """
    return None if value is None else or_else("null", lambda: check_choice(name, value, choices))


def check_widths(name: str, value: Sequence[int]) -> list[int]:
    """Return the value as a list if it holds integers of at least 1, or nothing.

    Raises:
        ArgumentError: names the argument and its value.
    """
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(is_int(width, 1) for width in value):
        raise refusal(name, value, "a list of widths of at least 1")
    return [int(width) for width in value]


def is_int(value: object, minimum: int) -> TypeGuard[int]:
    """Whether a value is an integer, of Python or numpy, of at least `minimum`; True is none."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= minimum


def refusal(name: str, value: object, allowed: str) -> ArgumentError:
    """The error of a check: the argument, its value as YAML has it, and what would be right."""
    return ArgumentError(f"{name}={_as_yaml(value)} must be {allowed}.")


def or_else(other: str, check: Callable[[], T]) -> T:
    """Call a check of a value that may be something else too, such as null; its message says so."""
    try:
        return check()
    except ArgumentError as error:
        raise ArgumentError(f"{str(error).removesuffix('.')}, or {other}.") from None


def _is_finite(value: Real) -> bool:
    try:
        return isfinite(value)
    except OverflowError:  # of an integer that no float holds
        return False


def _as_yaml(value: object) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _numbers(
    kind: str,
    minimum: float | None,
    maximum: float | None,
    above: float | None = None,
    below: float | None = None,
) -> str:
    """A range in words: `a whole number from 2 to 100`, `a finite number greater than 0 and at most 1`."""
    if minimum is not None and maximum is not None:
        return f"{kind} from {minimum} to {maximum}"
    bounds = {"of at least": minimum, "greater than": above, "of at most": maximum, "below": below}
    texts = [f"{words} {bound}" for words, bound in bounds.items() if bound is not None]
    return " ".join([kind, " and ".join(texts).replace("and of", "and")]).rstrip()
