"""Twenty steps through the command line: a refactoring leaves them untouched."""

import json
from pathlib import Path

import pytest

from tests.readers import read_metrics

GOLDEN = Path(__file__).with_name("digits_twenty_steps.json")


def test_twenty_steps_on_the_digits_are_the_golden_ones(command, tmp_path):
    finished = command(
        "train", "data=digits", "trainer.batch_size=120", "trainer.epochs=2", "tracker=none", "hydra.run.dir=run",
        "trainer.device=cpu", "evaluator.figures.every_n_epochs=5",
    )  # fmt: skip
    assert finished.code == 0, finished.err
    lines = read_metrics(tmp_path / "run")
    assert lines[-1]["step"] == 20
    golden = json.loads(GOLDEN.read_text())
    assert len(golden) == len(lines) == 2
    for expected, line in zip(golden, lines, strict=True):
        assert {key: line[key] for key in expected} == pytest.approx(expected, rel=1e-4)
