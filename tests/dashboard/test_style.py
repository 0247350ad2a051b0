"""Contrast (WCAG 2.2) and colours that the colour-blind can tell apart, computed from the style sheet."""

import itertools
import re

import numpy as np
import pytest

from vae_exp.dashboard.web.page import style

GROUNDS = ("ground", "raised")
TEXTS = ("ink", "quiet", "accent", "bad", "good", "warn")
CURVES = tuple(f"c{number}" for number in range(8))
# Viénot, Brettel & Mollon 1999: linear RGB as a protanope and a deuteranope see it.
BLINDNESS = {
    "none": np.eye(3),
    "protanopia": np.array([[0.1124, 0.8876, 0.0], [0.1124, 0.8876, 0.0], [0.0040, -0.0040, 1.0]]),
    "deuteranopia": np.array([[0.2928, 0.7072, 0.0], [0.2928, 0.7072, 0.0], [-0.0223, 0.0223, 1.0]]),
}


def theme(name: str) -> dict[str, str]:
    """The variables of a theme."""
    blocks = {"light": r":root \{(.*?)\}", "dark": r':root\[data-theme="dark"\] \{(.*?)\}'}
    match = re.search(blocks[name], style(), re.DOTALL)
    assert match is not None
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", match[1]))


def linear(colour: str) -> np.ndarray:
    values = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    light = sorted(float(linear(x) @ [0.2126, 0.7152, 0.0722]) for x in (one, other))
    return (light[1] + 0.05) / (light[0] + 0.05)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* under D65."""
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    ratios = (matrix @ rgb) / [0.9505, 1.0, 1.089]
    roots = np.where(ratios > 0.008856, np.cbrt(ratios), 7.787 * ratios + 16 / 116)
    return np.array([116 * roots[1] - 16, 500 * (roots[0] - roots[1]), 200 * (roots[1] - roots[2])])


@pytest.mark.parametrize("name", ["light", "dark"])
def test_texts_are_readable_and_marks_stand_out_on_every_ground(name: str):
    colours = theme(name)
    texts = [(text, ground, 4.5) for text in TEXTS for ground in (*GROUNDS, "accent-ground")]
    marks = [(mark, ground, 3.0) for mark in (*CURVES, "line", "accent") for ground in GROUNDS]
    for ink, ground, least in texts + marks:
        assert contrast(colours[ink], colours[ground]) >= least, (ink, ground)


@pytest.mark.parametrize("name", ["light", "dark"])
@pytest.mark.parametrize("kind", BLINDNESS)
def test_neighbouring_curves_can_be_told_apart(name: str, kind: str):
    colours = theme(name)
    seen = [lab(np.clip(BLINDNESS[kind] @ linear(colours[x]), 0, 1)) for x in CURVES]
    distances = {(a, b): np.linalg.norm(seen[a] - seen[b]) for a, b in itertools.combinations(range(8), 2)}
    nearest = min(distances, key=lambda pair: distances[pair])
    assert distances[nearest] >= 15, f"c{nearest[0]} and c{nearest[1]}: {distances[nearest]:.1f}"


def test_both_ways_into_the_dark_theme_agree():
    system = re.search(
        r'prefers-color-scheme: dark\) \{\s*:root:not\(\[data-theme="light"\]\) \{(.*?)\}', style(), re.DOTALL
    )
    assert system is not None
    assert dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", system[1])) == theme("dark")
