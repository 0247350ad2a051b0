import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from vae_exp.sweep.job_records import read_jobs
from vae_exp.sweep.tables import job_rows, print_summary, write_csv


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return tmp_path / "my sweep"


def _job(sweep: Path, name: str, overrides: Sequence[str] = (), result: Any = None) -> Path:
    """A job's directory; without a result it was lost."""
    directory = sweep / name
    (directory / ".hydra").mkdir(parents=True)
    (directory / ".hydra" / "overrides.yaml").write_text(json.dumps(list(overrides)))
    if result is not None:
        (directory / "result.json").write_text(json.dumps(result))
    return directory


def _completed(loss: float, **more: Any) -> dict[str, Any]:
    metrics = {"val/loss": loss, "val/rate": 3.25, "train/learning_rate": 0.001}
    return {"status": "completed", "error": None, "metrics": metrics, "monitor": "val/loss"} | more


def _failed(error: str, **more: Any) -> dict[str, Any]:
    return {"status": "failed", "error": error, "metrics": {}} | more


def _rows(sweep: Path) -> list[dict[str, str]]:
    with (sweep / "summary.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _printed(sweep: Path, capsys: pytest.CaptureFixture[str]) -> str:
    print_summary(sweep)
    return capsys.readouterr().out


# Reading


def test_a_completed_job_is_read(sweep: Path):
    _job(sweep, "one", ["model.latent_dim=2", "+seed=0"], _completed(1.5))
    [job] = read_jobs(sweep)
    assert (job.name, job.status, job.monitor, job.error) == ("one", "completed", "val/loss", "")
    assert job.keys == {"model.latent_dim": "2", "seed": "0"}
    assert job.metrics == {"val/loss": 1.5, "val/rate": 3.25, "train/learning_rate": 0.001}


def test_a_failed_job_is_read_with_its_error(sweep: Path):
    _job(sweep, "one", result=_failed("ValueError: no"))
    [job] = read_jobs(sweep)
    assert (job.status, job.error, job.metrics) == ("failed", "ValueError: no", {})


def test_a_job_without_a_result_is_lost(sweep: Path):
    _job(sweep, "one", ["seed=0"])
    [job] = read_jobs(sweep)
    assert (job.status, job.keys) == ("killed", {"seed": "0"})
    assert "without a result" in job.error


@pytest.mark.parametrize("text", ["", '{"status": "comp', "[]", "null", "nonsense"])
def test_a_job_whose_result_is_corrupt_is_unreadable(sweep: Path, text: str):
    path = _job(sweep, "one", ["seed=0"]) / "result.json"
    path.write_text(text)
    [job] = read_jobs(sweep)
    assert (job.status, job.keys, job.metrics) == ("unreadable", {"seed": "0"}, {})
    assert str(path) in job.error


def test_a_job_whose_result_is_binary_is_unreadable(sweep: Path):
    (_job(sweep, "one") / "result.json").write_bytes(b"\xff\xfe\x00")
    assert [job.status for job in read_jobs(sweep)] == ["unreadable"]


@pytest.mark.parametrize("overrides", [None, "", "- [", "{}"], ids=["missing", "empty", "corrupt", "no list"])
def test_a_job_without_readable_overrides_has_no_keys(sweep: Path, overrides: str | None):
    path = _job(sweep, "one", result=_completed(1.0)) / ".hydra" / "overrides.yaml"
    path.unlink() if overrides is None else path.write_text(overrides)
    assert [(job.status, job.keys) for job in read_jobs(sweep)] == [("completed", {})]


@pytest.mark.parametrize("overrides", [b"\xff\xfe\xfa", b"5"])
def test_overrides_that_are_something_else_do_not_hide_the_sweep(sweep: Path, overrides: bytes):
    (_job(sweep, "one", result=_completed(1.0)) / ".hydra" / "overrides.yaml").write_bytes(overrides)
    assert [(job.status, job.keys) for job in read_jobs(sweep)] == [("completed", {})]


def test_metrics_that_were_not_finite_are_left_out(sweep: Path):
    _job(sweep, "one", result=_completed(1.0) | {"metrics": {"val/loss": None, "val/rate": 2}})
    assert [job.metrics for job in read_jobs(sweep)] == [{"val/rate": 2}]


def test_only_directories_of_jobs_are_read(sweep: Path):
    _job(sweep, "one", result=_completed(1.0))
    (sweep / "notes").mkdir()
    (sweep / "summary.csv").write_text("")
    assert [job.name for job in read_jobs(sweep)] == ["one"]


def test_jobs_are_sorted_by_what_they_monitored_and_the_rest_come_last(sweep: Path):
    _job(sweep, "a lost")
    _job(sweep, "b failed", result=_failed("no", metrics={"val/loss": 0.1}, monitor="val/loss"))
    _job(sweep, "c second", result=_completed(2.0))
    _job(sweep, "d first", result=_completed(1.0))
    _job(sweep, "e without", result=_completed(0.0) | {"metrics": {}})
    _job(sweep, "f third", result=_completed(0.0) | {"monitor": "val/rate"})
    assert [job.name for job in read_jobs(sweep)] == [
        "d first",
        "c second",
        "f third",
        "e without",
        "b failed",
        "a lost",
    ]


# The CSV file


def test_the_csv_file_has_every_key_and_every_metric(sweep: Path):
    _job(sweep, "one", ["model.hidden_dims=[400,200]", "seed=0"], _completed(1.5))
    _job(sweep, "two", ["seed=0", '+note=a, "b"'], _failed("line one\nline, two"))
    write_csv(job_rows(read_jobs(sweep)), sweep / "summary.csv")
    first, second = _rows(sweep)
    assert first == {
        "job": "one",
        "status": "completed",
        "model.hidden_dims": "[400,200]",
        "seed": "0",
        "note": "",
        "val/loss": "1.5",
        "val/rate": "3.25",
        "train/learning_rate": "0.001",
        "warnings": "",
        "error": "",
    }
    assert (second["note"], second["error"], second["val/loss"]) == ('a, "b"', "line one\nline, two", "")


def test_numbers_keep_all_their_digits_in_the_csv_file(sweep: Path):
    value = 0.1 + 0.2
    _job(sweep, "one", result=_completed(value))
    write_csv(job_rows(read_jobs(sweep)), sweep / "summary.csv")
    assert float(_rows(sweep)[0]["val/loss"]) == value


def test_the_csv_file_is_in_the_order_of_the_table(sweep: Path):
    _job(sweep, "a", result=_completed(2.0))
    _job(sweep, "b", result=_completed(1.0))
    print_summary(sweep)
    assert [row["job"] for row in _rows(sweep)] == ["b", "a"]


def test_warnings_of_a_result_are_in_the_table_below_it_and_in_the_file(
    sweep: Path, capsys: pytest.CaptureFixture[str]
):
    warnings = [
        {"name": "posterior_collapse", "epoch": 4, "message": "the rate is 0.01 [/red]"},
        {"name": "tracker_lost", "epoch": 9, "message": "gone"},
    ]
    _job(sweep, "one", ["seed=0"], _completed(1.0, warnings=warnings))
    _job(sweep, "two", ["seed=1"], _completed(2.0, warnings=warnings[:1]))
    _job(sweep, "three", ["seed=2"], _completed(3.0, warnings="nonsense"))
    out = _printed(sweep, capsys)
    assert out.count("completed (posterior collapse, tracker lost)") == 1
    assert out.count("completed (posterior collapse)") == 1
    assert "Warning: posterior collapse in 2 of 3 jobs, such as one: the rate is 0.01 [/red]\n" in out
    assert "Warning: tracker lost in 1 of 3 jobs, such as one: gone\n" in out
    assert [row["warnings"] for row in _rows(sweep)] == [
        "posterior collapse, tracker lost",
        "posterior collapse",
        "",
    ]


# The table


def test_an_empty_sweep_prints_and_writes_nothing(sweep: Path, capsys: pytest.CaptureFixture[str]):
    sweep.mkdir()
    assert _printed(sweep, capsys) == ""
    assert list(sweep.iterdir()) == []


def test_the_table_shows_metrics_status_and_where_the_csv_file_is(sweep: Path, capsys: pytest.CaptureFixture[str]):
    _job(sweep, "one", ["seed=0"], _completed(1.23456))
    _job(sweep, "two", ["seed=1"])
    out = _printed(sweep, capsys)
    assert "Sweep my sweep, best first" in out
    [first, second] = [
        [cell.strip() for cell in line.split("│")] for line in out.splitlines() if line.startswith("│")
    ]
    assert first == ["", "0", "1.235", "3.250", "completed", ""]
    assert second[1:4] == ["1", "–", "–"]
    assert second[4].startswith("killed: ended without a result")
    assert f"Written to {sweep / 'summary.csv'}" in out


def _header(out: str) -> list[str]:
    [line] = [line for line in out.splitlines() if line.startswith("┃")]
    return [cell.strip() for cell in line.strip("┃").split("┃")]


def test_only_keys_that_vary_become_columns(sweep: Path, capsys: pytest.CaptureFixture[str]):
    for seed in (0, 1):
        _job(sweep, f"job{seed}", ["data=digits", f"seed={seed}"], _completed(1.0))
    assert _header(_printed(sweep, capsys)) == ["seed", "val/loss", "val/rate", "status"]


def test_metrics_of_training_are_shown_where_no_job_has_validated(sweep: Path, capsys: pytest.CaptureFixture[str]):
    _job(sweep, "one", ["seed=0"], _completed(1.0) | {"metrics": {"train/loss": 1.0}, "monitor": "train/loss"})
    assert _header(_printed(sweep, capsys)) == ["seed", "train/loss", "status"]


def test_a_key_that_only_some_jobs_have_varies(sweep: Path, capsys: pytest.CaptureFixture[str]):
    _job(sweep, "one", ["data=digits"], _completed(1.0))
    _job(sweep, "two", ["data=digits", "seed=1"], _completed(1.0))
    assert _header(_printed(sweep, capsys)) == ["seed", "val/loss", "val/rate", "status"]


def test_the_keys_of_a_single_job_are_all_shown(sweep: Path, capsys: pytest.CaptureFixture[str]):
    _job(sweep, "one", ["data=digits", "seed=0"], _completed(1.0))
    assert _header(_printed(sweep, capsys)) == ["data", "seed", "val/loss", "val/rate", "status"]


def test_a_long_error_is_cut_in_the_table_and_whole_below_it(sweep: Path, capsys: pytest.CaptureFixture[str]):
    error = "a" * 100 + "\nsecond line"
    _job(sweep, "one", result=_failed(error))
    out = _printed(sweep, capsys)
    assert f"failed: {'a' * 60}…" in out
    assert f"one: {error}" in out


def test_markup_in_an_error_is_shown_literally_below_the_table(sweep: Path, capsys: pytest.CaptureFixture[str]):
    _job(sweep, "one", result=_failed("[red]no"))
    assert "one: [red]no\n" in _printed(sweep, capsys)


def test_markup_in_an_error_is_shown_literally_in_the_table(sweep: Path, capsys: pytest.CaptureFixture[str]):
    _job(sweep, "one", result=_failed("[red]no"))
    assert "failed: [red]no" in _printed(sweep, capsys)


def test_markup_in_the_name_of_a_sweep_is_shown_literally(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    _job(tmp_path / "[red]", "one", ["seed=0"], _completed(1.0))
    assert "Sweep [red], best first" in _printed(tmp_path / "[red]", capsys)


def test_values_that_are_lists_of_names_are_shown(sweep: Path, capsys: pytest.CaptureFixture[str]):
    _job(sweep, "one", ["evaluator=[elbo,nll]"], _completed(1.0))
    _job(sweep, "two", ["evaluator=[elbo]"], _completed(1.0))
    out = _printed(sweep, capsys)
    assert "[elbo,nll]" in out
    assert "[elbo] " in out


@pytest.mark.parametrize("error", ["no [/red]", "no such file: [/tmp/x]"])
def test_a_closing_tag_in_an_error_does_not_hide_the_table(
    sweep: Path, capsys: pytest.CaptureFixture[str], error: str
):
    _job(sweep, "one", result=_failed(error))
    assert f"failed: {error}" in _printed(sweep, capsys)
