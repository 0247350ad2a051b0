import json
from contextlib import closing
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


# Going on


def _written(path: Path, epochs: int) -> bytes:
    file = MetricsFile(path)
    for epoch in range(1, epochs + 1):
        file.log({"epoch": epoch, "train/loss": 1 / epoch}, step=10 * epoch)
    file.close()
    return path.read_bytes()


def _resumed(path: Path, lines: int, epochs: int) -> bytes:
    file = MetricsFile.resumed(path, lines)
    file.begin()
    for epoch in range(lines + 1, epochs + 1):
        file.log({"epoch": epoch, "train/loss": 1 / epoch}, step=10 * epoch)
    file.close()
    return path.read_bytes()


@pytest.mark.parametrize("known", [0, 1, 3, 4])
@pytest.mark.parametrize("lost", [b"", b'{"step": 50, "epo'], ids=["whole", "with a line cut short"])
def test_a_resumed_file_is_the_one_of_a_run_that_was_never_interrupted(tmp_path: Path, known: int, lost: bytes):
    expected = _written(tmp_path / "whole.jsonl", 6)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(_written(tmp_path / "first.jsonl", 4) + lost)
    assert _resumed(path, known, 6) == expected


def test_a_resumed_file_is_written_line_by_line(path: Path):
    _written(path, 1)
    file = MetricsFile.resumed(path, 1)
    file.begin()
    file.log({"epoch": 2}, step=20)
    assert _lines(path)[-1] == {"step": 20, "epoch": 2}
    file.close()


def test_a_file_that_is_gone_is_begun_again_where_the_checkpoint_knows_of_no_line(path: Path):
    assert _resumed(path, 0, 2) == _written(path.with_name("whole.jsonl"), 2)


@pytest.mark.parametrize("there", [0, 2])
def test_a_file_that_has_lost_lines_keeps_the_others(path: Path, there: int, caplog: pytest.LogCaptureFixture):
    content = _written(path, there)
    with closing(MetricsFile.resumed(path, 3)) as file:
        file.begin()
    assert f"has lost {3 - there} of 3 lines" in caplog.text
    assert path.read_bytes() == content


def test_a_line_cut_short_is_not_counted_among_the_lines(path: Path, caplog: pytest.LogCaptureFixture):
    whole = _written(path, 3)
    path.write_bytes(whole[:-5])
    with closing(MetricsFile.resumed(path, 3)) as file:
        file.begin()
    assert "has lost 1 of 3 lines" in caplog.text
    assert path.read_bytes() == b"".join(whole.splitlines(keepends=True)[:2])


def test_a_write_that_fails_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch):
    content = _written(path, 3)

    def fail(descriptor: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        MetricsFile.resumed(path, 2).begin()
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]
