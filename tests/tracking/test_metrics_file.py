import json
from math import inf, nan
from pathlib import Path

import pytest

from vae_exp.errors import UserError
from vae_exp.tracking.metrics_file import MetricsFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


@pytest.fixture
def metrics_file(path: Path):
    file = MetricsFile(path)
    yield file
    file.close()


def _lines(path: Path) -> list[dict[str, float | None]]:
    return [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]


def test_each_epoch_is_a_line_with_its_step(metrics_file: MetricsFile, path: Path):
    metrics_file.log({"epoch": 1, "train/loss": 2.5}, step=600)
    metrics_file.log({"epoch": 2, "train/loss": 1.5}, step=1200)
    assert _lines(path) == [
        {"step": 600, "epoch": 1, "train/loss": 2.5},
        {"step": 1200, "epoch": 2, "train/loss": 1.5},
    ]


def test_a_line_is_on_the_disk_as_soon_as_it_is_logged(metrics_file: MetricsFile, path: Path):
    metrics_file.log({"epoch": 1}, step=1)
    assert path.read_text() == '{"step": 1, "epoch": 1}\n'


def test_numbers_that_json_does_not_know_become_null(metrics_file: MetricsFile, path: Path):
    metrics_file.log({"a": nan, "b": inf, "c": -inf, "d": 0.5}, step=1)
    assert _lines(path) == [{"step": 1, "a": None, "b": None, "c": None, "d": 0.5}]


def test_figures_leave_no_line(metrics_file: MetricsFile, path: Path):
    metrics_file.log_figures({"samples": path.with_name("samples.png")}, step=1)
    assert path.read_text() == ""


def test_a_second_run_in_the_same_directory_is_refused_and_harms_nothing(metrics_file: MetricsFile, path: Path):
    metrics_file.log({"epoch": 1}, step=1)
    with pytest.raises(UserError, match="already holds a run") as caught:
        MetricsFile(path)
    assert str(path.parent) in str(caught.value)
    assert _lines(path) == [{"step": 1, "epoch": 1}]
