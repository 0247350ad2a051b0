"""Contrast (WCAG 2.2) and colours that the colour-blind can tell apart, computed from the style sheet."""

import itertools
import re

import pytest

from tests.dashboard.colour_vision import LEAST_DISTANCE, VISIONS, distance, lab, linear, luminance
from vae_exp.dashboard.web.page import style

GROUNDS = ("ground", "raised")
TEXTS = ("ink", "quiet", "accent", "bad", "good", "warn")
CURVES = tuple(f"c{number}" for number in range(8))
RAMP = tuple(f"r{number}" for number in range(5))


def theme(name: str) -> dict[str, str]:
    """The variables of a theme."""
    blocks = {"light": r":root \{(.*?)\}", "dark": r':root\[data-theme="dark"\] \{(.*?)\}'}
    match = re.search(blocks[name], style(), re.DOTALL)
    assert match is not None
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", match[1]))


def contrast(one: str, other: str) -> float:
    light = sorted(map(luminance, (one, other)))
    return (light[1] + 0.05) / (light[0] + 0.05)


@pytest.mark.parametrize("name", ["light", "dark"])
def test_texts_are_readable_and_marks_stand_out_on_every_ground(name: str):
    colours = theme(name)
    texts = [(text, ground, 4.5) for text in TEXTS for ground in (*GROUNDS, "accent-ground")]
    marks = [(mark, ground, 3.0) for mark in (*CURVES, *RAMP, "line", "accent") for ground in GROUNDS]
    for ink, ground, least in texts + marks:
        assert contrast(colours[ink], colours[ground]) >= least, (ink, ground)


@pytest.mark.parametrize("name", ["light", "dark"])
@pytest.mark.parametrize("vision", VISIONS)
def test_colours_of_lines_can_be_told_apart(name: str, vision: str):
    colours = theme(name)
    distances = {(a, b): distance(colours[a], colours[b], vision) for a, b in itertools.combinations(CURVES, 2)}
    nearest = min(distances, key=lambda pair: distances[pair])
    assert distances[nearest] >= LEAST_DISTANCE, f"{nearest}: {distances[nearest]:.1f}"


@pytest.mark.parametrize("name", ["light", "dark"])
@pytest.mark.parametrize("vision", VISIONS)
def test_the_ramp_becomes_lighter_from_end_to_end(name: str, vision: str):
    lightness = [lab(VISIONS[vision](linear(theme(name)[stop])))[0] for stop in RAMP]
    assert all(second - first > 3 for first, second in itertools.pairwise(lightness)), lightness


def test_both_ways_into_the_dark_theme_agree():
    system = re.search(
        r'prefers-color-scheme: dark\) \{\s*:root:not\(\[data-theme="light"\]\) \{(.*?)\}', style(), re.DOTALL
    )
    assert system is not None
    assert dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", system[1])) == theme("dark")
