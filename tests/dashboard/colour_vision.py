"""Colours as people with one of three kinds of colour blindness see them, and how far apart they are."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Colour = npt.NDArray[np.float64]


def _matrix(*rows: list[float]) -> Callable[[Colour], Colour]:
    matrix = np.array(rows)
    return lambda rgb: matrix @ rgb


def _brettel_tritanopia(rgb: Colour) -> Colour:
    """Brettel, Viénot & Mollon 1997: a half-plane for each side of the neutral colours."""
    blue = np.array([[1.01277, 0.13548, -0.14826], [-0.01243, 0.86812, 0.14431], [0.07589, 0.80500, 0.11911]])
    yellow = np.array([[0.93678, 0.18979, -0.12657], [0.06154, 0.81526, 0.12320], [-0.37562, 1.12767, 0.24796]])
    return (blue if rgb @ [0.03960, -0.02831, -0.01129] >= 0 else yellow) @ rgb


# Of linear RGB. Machado, Oliveira & Fernandes 2009 at severity 1; Viénot, Brettel & Mollon 1999.
VISIONS: dict[str, Callable[[Colour], Colour]] = {
    "normal": lambda rgb: rgb,
    "protanopia, Machado": _matrix(
        [0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]
    ),
    "deuteranopia, Machado": _matrix(
        [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]
    ),
    "tritanopia, Machado": _matrix(
        [1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]
    ),
    "protanopia, Viénot": _matrix([0.1124, 0.8876, 0.0], [0.1124, 0.8876, 0.0], [0.0040, -0.0040, 1.0]),
    "deuteranopia, Viénot": _matrix([0.2928, 0.7072, 0.0], [0.2928, 0.7072, 0.0], [-0.0223, 0.0223, 1.0]),
    "tritanopia, Brettel": _brettel_tritanopia,
}
LEAST_DISTANCE = 20.0  # CIE76, between colours of lines, for every kind of vision


def linear(colour: str) -> Colour:
    """Linear RGB of a colour such as `#1e87f0`."""
    values = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    return float(linear(colour) @ [0.2126, 0.7152, 0.0722])


def lab(rgb: Colour) -> Colour:
    """CIE L*a*b* under D65."""
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    ratios = (matrix @ np.clip(rgb, 0, 1)) / [0.9505, 1.0, 1.089]
    roots = np.where(ratios > 0.008856, np.cbrt(ratios), 7.787 * ratios + 16 / 116)
    return np.array([116 * roots[1] - 16, 500 * (roots[0] - roots[1]), 200 * (roots[1] - roots[2])])


def distance(one: str, other: str, vision: str) -> float:
    """CIE76 distance of two colours as a kind of vision sees them."""
    return float(np.linalg.norm(np.subtract(*(lab(VISIONS[vision](linear(x))) for x in (one, other)))))
