"""Which reader is asked, and what it says of what it could not read."""

from pathlib import Path

import pytest

from tests.dashboard.portions import everything
from tests.dashboard.records import make_run
from vae_exp.dashboard.__main__ import _require_roots
from vae_exp.dashboard.reader import leet, source
from vae_exp.dashboard.reader.events import HistoryRow, RunInfo
from vae_exp.dashboard.reader.source import FileSource, LeetSource, NativeSource
from vae_exp.dashboard.runs.run import Segment
from vae_exp.errors import UserError

FIXTURE = Path(__file__).with_name("fixtures") / "wandb-0.31.0.wandb"


def test_both_readers_have_the_same_events():
    assert everything(LeetSource(FIXTURE)) == everything(NativeSource(FIXTURE))


def test_a_file_of_another_format_is_read_by_w_and_b_whenever_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    known = leet.inspected(FIXTURE)
    asked = []

    def inspected(path: Path) -> list[dict]:
        asked.append(path)
        return known[: 5 + 5 * len(asked)]

    monkeypatch.setattr(source, "inspected", inspected)
    path = tmp_path / "run.wandb"
    path.write_bytes(b"a format to come")
    segment = Segment(path, FileSource(path))
    segment.take(segment.read())
    assert segment.read() == []
    rows = len(segment.history)
    path.write_bytes(b"a format to come, longer")
    segment.take(segment.read())
    assert len(asked) == 2
    assert len(segment.history) > rows
    assert segment.info.run_id == "fix0310"
    assert segment.history.steps[0] == 10
    assert len(set(segment.history.steps)) == len(segment.history)


def test_what_neither_reader_knows_is_told(tmp_path: Path):
    path = tmp_path / "run.wandb"
    path.write_bytes(b"nothing that anybody knows")
    reader = FileSource(path)
    assert everything(reader) == []
    assert reader.lost.startswith("unknown format, and W&B's own reader says")


def test_records_that_are_strange_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    strange = [
        {"type": "history", "history": {"item": {"_step": "many"}}},
        {"type": "run", "run": {}},
        {"no": "type"},
    ]
    monkeypatch.setattr(source, "inspected", lambda path: [*strange, {"type": "run", "run": {"run_id": "one"}}])
    path = tmp_path / "run.wandb"
    path.write_bytes(b"x")
    reader = LeetSource(path)
    assert reader.read() == [RunInfo("one")]
    assert reader.lost == "3 records could not be understood"


def test_the_history_of_a_native_file_has_its_steps(tmp_path: Path):
    path = make_run(tmp_path, "one", rows=[{"a": 1.0}, {"a": 2.0}])
    rows = [event for event in everything(NativeSource(path)) if isinstance(event, HistoryRow)]
    assert [(row.step, row.values["a"]) for row in rows] == [(10, 1.0), (20, 2.0)]


def test_a_device_is_no_place_to_look_for_runs():
    with pytest.raises(UserError, match="ROOT=/dev/null is no folder"):
        _require_roots([Path("/dev/null")])
