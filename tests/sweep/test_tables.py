import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from vae_exp.sweep.job_records import NOT_STARTED, RUNNING, JobRecord, read_jobs
from vae_exp.sweep.tables import job_rows, print_summary, seconds_left, write_csv


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return tmp_path / "my sweep"


def _job(sweep: Path, name: str, overrides: Sequence[str] = (), result: Any = None) -> Path:
    """A job's directory; without a result it was killed."""
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


def test_the_time_left_is_that_of_the_jobs_that_run_side_by_side():
    """Four jobs of ten seconds wait for two places, and the two that run are half done on average: 25 s."""
    done = [JobRecord(f"{n}", "completed", (f"seed={n}",), seconds=10.0) for n in range(3)]
    running = [JobRecord(f"{n}", RUNNING, (f"seed={n}",)) for n in range(3, 5)]
    waiting = [JobRecord("", NOT_STARTED, (f"seed={n}",)) for n in range(5, 9)]
    assert seconds_left([*done, *running, *waiting]) == pytest.approx(25)


# Reading


def test_jobs_are_read_whether_they_completed_failed_or_were_killed(sweep: Path):
    _job(sweep, "a", ["model.latent_dim=2", "+seed=0"], _completed(1.5))
    _job(sweep, "b", result=_failed("ValueError: no"))
    _job(sweep, "c", ["seed=0"])
    (sweep / "notes").mkdir()
    (sweep / "summary.csv").write_text("")
    completed, failed, killed = read_jobs(sweep)
    assert (completed.name, completed.status, completed.monitor) == ("a", "completed", "val/loss")
    assert completed.keys == {"model.latent_dim": "2", "seed": "0"}
    assert completed.metrics == {"val/loss": 1.5, "val/rate": 3.25, "train/learning_rate": 0.001}
    assert (failed.status, failed.error, failed.metrics) == ("failed", "ValueError: no", {})
    assert (killed.status, killed.keys, killed.error) == ("killed", {"seed": "0"}, "ended without a result")


@pytest.mark.parametrize("content", [b"", b'{"status": "comp', b"[]", b"null", b"nonsense", b"\xff\xfe\x00"])
def test_a_job_whose_result_is_corrupt_is_unreadable(sweep: Path, content: bytes):
    path = _job(sweep, "one", ["seed=0"]) / "result.json"
    path.write_bytes(content)
    [job] = read_jobs(sweep)
    assert (job.status, job.keys, job.metrics) == ("unreadable", {"seed": "0"}, {})
    assert str(path) in job.error


@pytest.mark.parametrize("content", [None, b"", b"- [", b"{}", b"\xff\xfe\xfa", b"5"])
def test_a_job_without_readable_overrides_has_no_keys(sweep: Path, content: bytes | None):
    path = _job(sweep, "one", result=_completed(1.0)) / ".hydra" / "overrides.yaml"
    path.unlink() if content is None else path.write_bytes(content)
    assert [(job.status, job.keys) for job in read_jobs(sweep)] == [("completed", {})]


def test_metrics_that_were_not_finite_are_left_out(sweep: Path):
    _job(sweep, "one", result=_completed(1.0) | {"metrics": {"val/loss": None, "val/rate": 2}})
    assert [job.metrics for job in read_jobs(sweep)] == [{"val/rate": 2}]


def test_jobs_are_sorted_by_what_they_monitored_and_the_rest_come_last(sweep: Path):
    _job(sweep, "a killed")
    _job(sweep, "b failed", result=_failed("no", metrics={"val/loss": 0.1}, monitor="val/loss"))
    _job(sweep, "c second", result=_completed(2.0))
    _job(sweep, "d first", result=_completed(1.0))
    _job(sweep, "e without", result=_completed(0.0) | {"metrics": {}})
    _job(sweep, "f third", result=_completed(0.0) | {"monitor": "val/rate"})
    names = [job.name for job in read_jobs(sweep)]
    assert names == ["d first", "c second", "f third", "e without", "b failed", "a killed"]
    print_summary(sweep)
    assert [row["job"] for row in _rows(sweep)] == names


def test_jobs_with_other_losses_are_compared_by_their_elbo(sweep: Path, capsys: pytest.CaptureFixture[str]):
    for beta, loss, elbo in (("8", 1.0, -9.0), ("1", 3.0, -5.0), ("0.01", 2.0, -7.0)):
        metrics = {"val/loss": loss, "val/elbo": elbo}
        _job(sweep, beta, [f"loss.beta={beta}"], _completed(loss) | {"metrics": metrics})
    assert "best val/elbo first" in _printed(sweep, capsys)
    assert [row["loss.beta"] for row in _rows(sweep)] == ["1", "0.01", "8"]


# The CSV file


def test_the_csv_file_has_every_key_and_every_metric_with_all_digits(sweep: Path):
    _job(sweep, "one", ["model.hidden_dims=[400,200]", "seed=0"], _completed(0.1 + 0.2))
    _job(sweep, "two", ["seed=0", '+note=a, "b"'], _failed("line one\nline, two"))
    write_csv(job_rows(read_jobs(sweep)), sweep / "summary.csv")
    first, second = _rows(sweep)
    assert first == {
        "job": "one",
        "status": "completed",
        "model.hidden_dims": "[400,200]",
        "seed": "0",
        "note": "",
        "val/loss": "0.30000000000000004",
        "val/rate": "3.25",
        "train/learning_rate": "0.001",
        "warnings": "",
        "error": "",
    }
    assert (second["note"], second["error"], second["val/loss"]) == ('a, "b"', "line one\nline, two", "")


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
    assert "Warning: posterior collapse in 2 of 3 jobs, such as seed=0 · one: the rate is 0.01 [/red]\n" in out
    assert "Warning: tracker lost in 1 of 3 jobs, such as seed=0 · one: gone\n" in out
    column = [row["warnings"] for row in _rows(sweep)]
    assert column == ["posterior collapse, tracker lost", "posterior collapse", ""]


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
    assert second == ["", "1", "–", "–", "killed: ended without a result", ""]
    assert f"Written to {sweep / 'summary.csv'}" in out


@pytest.mark.parametrize(
    ("jobs", "header"),
    [
        ([["data=digits", "seed=0"], ["data=digits", "seed=1"]], ["seed", "val/loss", "val/rate"]),
        ([["data=digits"], ["data=digits", "seed=1"]], ["seed", "val/loss", "val/rate"]),
        ([["data=digits", "seed=0"]], ["data", "seed", "val/loss", "val/rate"]),
        ([["evaluator=[elbo,nll]"], ["evaluator=[elbo]"]], ["evaluator", "val/loss", "val/rate"]),
    ],
)
def test_only_keys_that_vary_become_columns(
    sweep: Path, capsys: pytest.CaptureFixture[str], jobs: list[list[str]], header: list[str]
):
    for number, overrides in enumerate(jobs):
        _job(sweep, str(number), overrides, _completed(1.0))
    out = _printed(sweep, capsys)
    assert _header(out) == [*header, "status"]
    if header[0] == "evaluator":
        assert "[elbo,nll]" in out


def _header(out: str) -> list[str]:
    [line] = [line for line in out.splitlines() if line.startswith("┃")]
    return [cell.strip() for cell in line.strip("┃").split("┃")]


def test_metrics_of_training_are_shown_where_no_job_has_validated(sweep: Path, capsys: pytest.CaptureFixture[str]):
    _job(sweep, "one", ["seed=0"], _completed(1.0) | {"metrics": {"train/loss": 1.0}, "monitor": "train/loss"})
    assert _header(_printed(sweep, capsys)) == ["seed", "train/loss", "status"]


@pytest.mark.parametrize("error", ["[red]no", "no [/red]", "no such file: [/tmp/x]", "a" * 100 + "\nsecond line"])
def test_an_error_is_cut_in_the_table_and_whole_below_it_and_its_markup_is_literal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], error: str
):
    _job(tmp_path / "[red]", "one", ["seed=0"], _failed(error))
    out = _printed(tmp_path / "[red]", capsys)
    assert "Sweep [red], best first" in out
    assert f"failed: {error if len(error) < 60 else 'a' * 60 + '…'}" in out
    assert f"one: {error}\n" in out
