import json
import re
from contextlib import closing
from math import inf, nan
from pathlib import Path

import pytest

from vae_exp.tracking.metrics_file import JsonlMetrics, read_row


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def _rows(path: Path) -> list[dict[str, float | None]]:
    """The lines as another program reads them, without their checksums."""
    rows = [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "crc32"} for row in rows]


def test_each_epoch_is_a_line_with_its_step_as_soon_as_it_is_logged(path: Path):
    with closing(JsonlMetrics(path)) as file:
        file.truncate_and_open()
        file.log({"epoch": 1}, step=1)
        file.log_figures({"samples": path.with_name("samples.png")}, step=1)
        assert path.read_text() == '{"step": 1, "epoch": 1, "crc32": "dd26372e"}\n'
        file.log({"epoch": 2, "a": nan, "b": inf, "c": -inf, "d": 0.5}, step=2)
        assert _rows(path)[1:] == [{"step": 2, "epoch": 2, "a": None, "b": None, "c": None, "d": 0.5}]


# Resumed


def _row(epoch: int) -> dict[str, float]:
    return {"step": 10 * epoch, "epoch": epoch, "train/loss": -1 / epoch, "val/J*-gap": nan}


def _written(path: Path, epochs: int) -> bytes:
    return _resumed(path, 0, epochs)


def _resumed(path: Path, known: int, epochs: int) -> bytes:
    with closing(JsonlMetrics(path, known, _row(known) if known else None)) as file:
        file.truncate_and_open()
        for epoch in range(known + 1, epochs + 1):
            row = _row(epoch)
            file.log(row, step=int(row.pop("step")))
    return path.read_bytes()


def _without_checksums(content: bytes) -> bytes:
    """As an older version would have written it."""
    return re.sub(rb', "crc32": "[0-9a-f]{8}"', b"", content)


@pytest.mark.parametrize("known", [0, 1, 3, 4])
@pytest.mark.parametrize("lost", [b"", b'{"step": 50, "epo'], ids=["whole", "with a line cut short"])
def test_a_resumed_file_is_the_one_of_a_run_that_was_never_interrupted(tmp_path: Path, known: int, lost: bytes):
    expected = _written(tmp_path / "whole.jsonl", 6)
    path = tmp_path / "metrics.jsonl"
    if known or lost:  # otherwise there is none
        path.write_bytes(_written(tmp_path / "first.jsonl", 4) + lost)
    assert _resumed(path, known, 6) == expected


@pytest.mark.parametrize("there", [0, 2])
def test_a_file_that_has_lost_lines_keeps_the_others(path: Path, there: int, caplog: pytest.LogCaptureFixture):
    content = _written(path, there)
    last = _written(path.with_name("whole.jsonl"), 5).splitlines(keepends=True)[4]
    assert _resumed(path, 5, 5) == content + last
    assert "line 5 is restored from the checkpoint" in caplog.text
    assert f"has lost {4 - there} of 5 lines" in caplog.text


def test_a_last_line_that_is_cut_short_is_restored(path: Path, caplog: pytest.LogCaptureFixture):
    whole = _written(path, 3)
    path.write_bytes(whole[:-5])
    assert _resumed(path, 3, 3) == whole
    assert "line 3 is damaged" in caplog.text
    assert "line 3 is restored from the checkpoint" in caplog.text


def _flipped(content: bytes, number: int) -> bytes:
    position, bit = divmod(number, 8)
    return content[:position] + bytes([content[position] ^ 1 << bit]) + content[position + 1 :]


def test_no_line_with_a_flipped_bit_is_read(path: Path):
    line = _written(path, 1).rstrip(b"\n")
    assert read_row(line) == {**_row(1), "val/J*-gap": None}
    assert not [number for number in range(8 * len(line)) if read_row(_flipped(line, number)) is not None]


def test_a_line_with_a_flipped_bit_is_named_and_the_last_restored(path: Path, caplog: pytest.LogCaptureFixture):
    whole = _written(path, 3)
    lines = whole.splitlines()
    for flipped in range(0, 8 * len(whole), 61):
        number = whole.count(b"\n", 0, flipped // 8)
        path.write_bytes(_flipped(whole, flipped))
        caplog.clear()
        after = _resumed(path, 3, 3).splitlines()
        assert [*after[:number], after[-1]] == [*lines[:number], lines[-1]]
        assert set(after) <= set(lines)
        assert f"line {number + 1} is damaged" in caplog.text


def test_a_line_after_a_lost_one_is_not_taken_twice(path: Path):
    """The file is a line ahead of the checkpoint, and has lost one."""
    first, _, third, fourth = _written(path, 4).splitlines(keepends=True)
    path.write_bytes(first + third + fourth)
    assert _resumed(path, 3, 4) == first + third + fourth


def test_lines_without_checksums_stay_as_they_are(path: Path, caplog: pytest.LogCaptureFixture):
    whole = _written(path, 4)
    old = _without_checksums(whole)
    path.write_bytes(old)
    expected = b"".join([*old.splitlines(keepends=True)[:3], *whole.splitlines(keepends=True)[3:]])
    assert _resumed(path, 3, 4) == expected
    assert not caplog.text


def test_the_last_line_is_compared_with_the_checkpoint_even_without_a_checksum(path: Path):
    whole = _written(path, 3)
    path.write_bytes(_without_checksums(whole).replace(b"-0.3333", b"-0.3337"))
    assert _resumed(path, 3, 3).splitlines()[-1] == whole.splitlines()[-1]


def test_a_write_that_fails_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch):
    content = _written(path, 3)

    def fail(descriptor: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        JsonlMetrics(path, 2, _row(2)).truncate_and_open()
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]
