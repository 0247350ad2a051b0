import json
from pathlib import Path

import pytest

from vae_exp.sweep.session import SweepSession


@pytest.fixture
def recorder() -> SweepSession:
    return SweepSession()


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    job = tmp_path / "sweep" / "job"
    (job / ".hydra").mkdir(parents=True)
    (job / "result.json").write_text(json.dumps({"status": "completed", "metrics": {"val/loss": 1.5}}))
    return tmp_path / "sweep"


def test_without_a_sweep_nothing_is_reported(recorder: SweepSession, capsys: pytest.CaptureFixture[str]):
    recorder.report()
    assert capsys.readouterr().out == ""


def test_a_sweep_that_has_started_is_reported_once(
    recorder: SweepSession, sweep: Path, capsys: pytest.CaptureFixture[str]
):
    recorder.remember(sweep)
    recorder.report()
    assert "Sweep sweep, best first" in capsys.readouterr().out
    assert (sweep / "summary.csv").exists()
    recorder.report()
    assert capsys.readouterr().out == ""


def test_trials_that_failed_are_told_every_time_and_none_is_promised_again(
    recorder: SweepSession, sweep: Path, capsys: pytest.CaptureFixture[str]
):
    recorder.remember(sweep)
    recorder.note(["a: broke"], 1)
    recorder.note_search(failed=1, unfinished=0)
    assert not recorder.report()
    told = capsys.readouterr().err
    assert "1 trials failed; they stay so" in told
    assert "again" not in told
    recorder.note_search(failed=0, unfinished=2)
    assert not recorder.report()
    assert "2 trials have not ended; run the same command to continue" in capsys.readouterr().err
    recorder.note_search(failed=0, unfinished=0)
    assert recorder.report()


def test_a_table_that_cannot_be_written_costs_nothing_else(
    recorder: SweepSession, sweep: Path, capsys: pytest.CaptureFixture[str]
):
    (sweep / "summary.csv").mkdir()
    recorder.remember(sweep)
    assert recorder.report()
    assert "the table of the sweep could not be written" in capsys.readouterr().err


def test_a_sweep_is_found_from_another_working_directory(
    recorder: SweepSession, sweep: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(sweep.parent)
    recorder.remember(Path("sweep"))
    monkeypatch.chdir("/")
    recorder.report()
    assert (sweep / "summary.csv").exists()


def test_failed_jobs_are_counted_at_the_end_and_once(recorder: SweepSession, capsys: pytest.CaptureFixture[str]):
    recorder.note(["a: no", "b: no"], 3)
    recorder.note([], 4)
    assert recorder.report() is False
    assert "2 of 7 jobs that were tried did not finish" in capsys.readouterr().err
    assert recorder.report() is True
