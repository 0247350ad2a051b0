"""Checks of what evaluators are constructed with, before a run rather than at its end."""


def require_count(name: str, value: object, least: int = 1, most: int | None = None) -> int:
    """A whole number of at least `least` and, where there is one, at most `most`.

    Raises:
        ValueError: names the argument, its value and what would be right.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}={value} must be a whole number of at least {least}.")
    if most is not None and value > most:
        raise ValueError(f"{name}={value} must be at most {most}.")
    return value


def require_interval(name: str, value: object) -> int | None:
    """A whole number of at least 1, or None.

    Raises:
        ValueError: names the argument, its value and what would be right.
    """
    return None if value is None else require_count(name, value)
