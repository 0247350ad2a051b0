"""The native reader against W&B's own, and the choice between them."""

from pathlib import Path

import pytest

from tests.dashboard.records import read_to_end
from vae_exp.dashboard.__main__ import _check_roots
from vae_exp.dashboard.reader import source
from vae_exp.dashboard.reader.events import RunInfo
from vae_exp.dashboard.reader.log_reader import WandbLogReader
from vae_exp.dashboard.reader.parse import parse_event
from vae_exp.dashboard.reader.protobuf import decode_record
from vae_exp.dashboard.reader.source import EventSource, inspect_with_leet
from vae_exp.dashboard.runs.run import RunSegment
from vae_exp.errors import UserError

FIXTURES = sorted(Path(__file__).with_name("fixtures").glob("*.wandb"))


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_files_of_all_versions_have_the_events_that_w_and_b_reads(path: Path):
    reader = EventSource(path)
    events = read_to_end(reader)
    assert events == [event for record in inspect_with_leet(path) if (event := parse_event(record)) is not None]
    assert len(events) > 20
    assert reader.data_loss == ""


def test_kinds_that_the_dashboard_does_not_use_are_none():
    records = [decode_record(data) for data in read_to_end(WandbLogReader(FIXTURES[-1]))]
    assert records[0] is None  # the header
    assert {record["type"] for record in records if record} >= {"run", "history", "summary", "exit", "alert"}


def test_a_file_of_another_format_is_read_by_w_and_b_whenever_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    records = inspect_with_leet(FIXTURES[-1])
    calls = []

    def inspect(path: Path) -> list[dict]:
        calls.append(path)
        return records[: 5 + 5 * len(calls)]

    monkeypatch.setattr(source, "inspect_with_leet", inspect)
    path = tmp_path / "run.wandb"
    path.write_bytes(b"a format to come")
    segment = RunSegment(path)
    segment.apply_events(segment.read())
    assert segment.read() == []
    rows = len(segment.history)
    path.write_bytes(b"a format to come, longer")
    segment.apply_events(segment.read())
    assert len(calls) == 2
    assert len(segment.history) > rows
    assert segment.info.run_id == "fix0310"
    assert segment.history.steps[0] == 10
    assert len(set(segment.history.steps)) == len(segment.history)


def test_a_file_that_neither_reader_can_read_is_reported(tmp_path: Path):
    path = tmp_path / "run.wandb"
    path.write_bytes(b"of no known format")
    reader = EventSource(path)
    assert read_to_end(reader) == []
    assert reader.data_loss.startswith("unknown format, and W&B's own reader says")


def test_invalid_records_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    records = [
        {"type": "history", "history": {"item": {"_step": "many"}}},
        {"type": "run", "run": {}},
        {"no": "type"},
        {"type": "run", "run": {"run_id": "one"}},
    ]
    monkeypatch.setattr(source, "inspect_with_leet", lambda path: records)
    path = tmp_path / "run.wandb"
    path.write_bytes(b"x")
    reader = EventSource(path)
    assert reader.read() == [RunInfo("one")]
    assert reader.data_loss == "3 records could not be understood"


def test_a_device_is_no_root():
    with pytest.raises(UserError, match="ROOT=/dev/null is no folder"):
        _check_roots([Path("/dev/null")])
