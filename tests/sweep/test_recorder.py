import json
from pathlib import Path

import pytest

from vae_exp.sweep import recorder


@pytest.fixture(autouse=True)
def _nothing_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "_started", [])


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    job = tmp_path / "sweep" / "job"
    (job / ".hydra").mkdir(parents=True)
    (job / "result.json").write_text(json.dumps({"status": "completed", "metrics": {"val/loss": 1.5}}))
    return tmp_path / "sweep"


def test_without_a_sweep_nothing_is_reported(capsys: pytest.CaptureFixture[str]):
    recorder.report()
    assert capsys.readouterr().out == ""


def test_a_sweep_that_has_started_is_reported_once(sweep: Path, capsys: pytest.CaptureFixture[str]):
    recorder.remember(sweep)
    recorder.report()
    assert "Sweep sweep, best first" in capsys.readouterr().out
    assert (sweep / "summary.csv").exists()
    recorder.report()
    assert capsys.readouterr().out == ""


def test_a_sweep_is_found_from_another_working_directory(sweep: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(sweep.parent)
    recorder.remember(Path("sweep"))
    monkeypatch.chdir("/")
    recorder.report()
    assert (sweep / "summary.csv").exists()
