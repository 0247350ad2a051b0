import json
from pathlib import Path

import pytest

from vae_exp.sweep.session import SweepSession, current_session, sweep_session


@pytest.fixture
def session() -> SweepSession:
    return SweepSession()


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    job = tmp_path / "sweep" / "job"
    (job / ".hydra").mkdir(parents=True)
    (job / "result.json").write_text(json.dumps({"status": "completed", "metrics": {"val/loss": 1.5}}))
    return tmp_path / "sweep"


def test_a_sweep_that_has_started_is_reported_from_any_working_directory(
    session: SweepSession, sweep: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    assert session.print_report()
    assert capsys.readouterr().out == ""
    monkeypatch.chdir(sweep.parent)
    session.track(Path("sweep"))
    monkeypatch.chdir("/")
    assert session.print_report()
    assert "Sweep sweep, best first" in capsys.readouterr().out
    assert (sweep / "summary.csv").exists()


def test_failed_trials_are_reported_instead_of_failed_jobs(
    session: SweepSession, capsys: pytest.CaptureFixture[str]
):
    session.add_failures(2, 3)
    session.add_failures(0, 4)
    assert not session.print_report()
    assert "2 of 7 jobs tried did not finish" in capsys.readouterr().err
    session.set_trial_counts(failed=1, unfinished=0)
    assert not session.print_report()
    message = capsys.readouterr().err
    assert "1 trial failed; failed trials are not repeated" in message
    assert "again" not in message
    session.set_trial_counts(failed=0, unfinished=2)
    assert not session.print_report()
    assert "Not ended: 2 trials; run the same command to continue" in capsys.readouterr().err
    session.set_trial_counts(failed=0, unfinished=0)
    assert session.print_report()


def test_a_table_that_cannot_be_written_costs_nothing_else(
    session: SweepSession, sweep: Path, capsys: pytest.CaptureFixture[str]
):
    (sweep / "summary.csv").mkdir()
    session.track(sweep)
    assert session.print_report()
    assert "the table of the sweep could not be written" in capsys.readouterr().err


def test_a_session_is_found_within_its_block_alone():
    with sweep_session() as session:
        assert current_session() is session
    assert current_session() is not session
