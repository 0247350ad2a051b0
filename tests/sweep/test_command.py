"""`python -m vae_exp.sweep`."""

import csv
import json
import sys
import time
from pathlib import Path

import pytest
import yaml
from filelock import FileLock
from pyarrow import parquet

from tests.readers import read_result
from tests.sweep.sweeps import make_job, make_sweep
from vae_exp.sweep.__main__ import main
from vae_exp.sweep.manifest import STUDY_FILE, add_command


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def run(*arguments: object) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["vae_exp.sweep", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        code = end.value.code
        return (1, captured.out, code) if isinstance(code, str) else (code, captured.out, captured.err)

    return run


def test_status_summary_and_best_mark_jobs_with_warnings(command, tmp_path: Path):
    for seed in (0, 1):
        job = make_job(tmp_path, ["loss.beta=4", f"seed={seed}"], val__elbo=-1.0)
        result = read_result(job)
        collapse = {"name": "posterior_collapse", "epoch": 4, "message": "the rate is 0.01"}
        (job / "result.json").write_text(json.dumps({**result, "warnings": [collapse][: 1 - seed]}))
    line = "Warning: posterior collapse in 1 of 2 jobs, such as seed=0 · loss.beta-4_seed-0: the rate is 0.01"
    assert line in command("status", tmp_path)[1]
    grouped = command("summary", tmp_path, "--group-by", "loss.beta")[1]
    assert line in grouped
    assert "2, 1 with posterior collapse" in grouped
    assert "completed (posterior collapse)" in command("summary", tmp_path, "--jobs")[1]
    assert "(posterior collapse)" in command("best", tmp_path)[1]


def test_status_counts_names_the_failed_and_knows_what_is_missing(command, tmp_path: Path):
    make_job(tmp_path, ["seed=0"], val__elbo=-1.0)
    make_job(tmp_path, ["seed=1"], "failed")
    running = make_job(tmp_path, ["seed=2"], None)
    (running / "metrics.jsonl").write_text('{"step": 9, "epoch": 2, "val/elbo": -3.25}\n{"step"')
    add_command(tmp_path, [], tmp_path, [[f"seed={seed}"] for seed in range(5)])
    with FileLock(running / ".lock"):
        code, out, _ = command("status", tmp_path)
    assert code == 0
    assert "5 jobs: 2 not started, 1 completed, 1 failed, 1 running" in out
    assert "failed: seed=1 · seed-1: it went wrong" in out
    assert "-3.250" in out
    assert "left at the pace" in out
    _, out, _ = command("status", tmp_path)
    assert "killed: seed=2 · seed-2: ended without a result" in out


def test_the_summary_has_means_and_errors_and_the_files_every_job(command, tmp_path: Path):
    sweep = make_sweep(tmp_path / "s")
    code, out, _ = command("summary", sweep, "--csv", tmp_path / "all.csv", "--parquet", tmp_path / "all.parquet")
    assert code == 0
    assert out.count("±") == 1 + 6 * 4
    with (tmp_path / "all.csv").open() as file:
        rows = list(csv.DictReader(file))
    table = parquet.read_table(tmp_path / "all.parquet").to_pylist()
    assert len(rows) == len(table) == 12
    assert [float(row["val/elbo"]) for row in rows] == [row["val/elbo"] for row in table]


def test_the_summary_lists_the_jobs_while_none_has_completed(command, tmp_path: Path):
    for seed in (0, 1):
        make_job(tmp_path, [f"model.latent_dim={seed + 2}", f"seed={seed}"], "failed")
    code, out, _ = command("summary", tmp_path)
    assert code == 0
    assert out.count("failed") == 2
    assert "Completed jobs" not in out


def test_the_summary_is_sorted_and_grouped_as_asked(command, tmp_path: Path):
    sweep = make_sweep(tmp_path / "s")
    _, out, _ = command("summary", sweep, "--group-by", "model.latent_dim", "--sort", "model.latent_dim")
    cells = [line.split("│")[1].strip() for line in out.splitlines() if line.startswith("│")]
    assert cells == ["2", "8", "16"]
    _, out, _ = command("summary", sweep, "--group-by", "model.latent_dim")
    cells = [line.split("│")[1].strip() for line in out.splitlines() if line.startswith("│")]
    assert cells == ["16", "8", "2"]
    code, _, err = command("summary", sweep, "--group-by", "model.latent_dim", "--sort", "model.hidden_dims")
    assert code != 0
    assert "--sort model.hidden_dims: no job has it" in err
    _, out, _ = command("summary", sweep, "--jobs", "--sort", "val/rate")
    assert len([line for line in out.splitlines() if line.startswith("│")]) == 12


@pytest.mark.parametrize("others", ["mean", "best"])
def test_a_summary_combines_other_keys_says_so_and_is_written_as_shown(command, tmp_path: Path, others: str):
    make_job(tmp_path / "s", ["model.latent_dim=4", "loss.beta=1", "seed=0"], val__elbo=-1.0)
    for beta, seed, value in ((1, 0, -3.0), (1, 1, -5.0), (4, 0, -10.0), (4, 1, -12.0), (4, 2, -14.0)):
        make_job(tmp_path / "s", ["model.latent_dim=2", f"loss.beta={beta}", f"seed={seed}"], val__elbo=value)
    options = ("--group-by", "model.latent_dim", "--others", others, "--csv", tmp_path / "g.csv")
    _, out, _ = command("summary", tmp_path / "s", *options)
    caption = f"mean over 1 to 3 seeds; {others} over loss.beta; ± standard errors over seeds"
    assert caption in " ".join(out.split())
    with (tmp_path / "g.csv").open() as file:
        best, other = csv.DictReader(file)
    assert (best["model.latent_dim"], best["jobs"], best["val/elbo"]) == ("4", "1", "-1.0")
    assert best["val/elbo standard error"] == ""
    errors = {"mean": ((2**0.5) ** 2 / 2 + 2.0**2 / 3) ** 0.5 / 2, "best": 1.0}
    assert (other["jobs"], float(other["val/elbo"])) == ("5", {"mean": -8.0, "best": -4.0}[others])
    assert float(other["val/elbo standard error"]) == pytest.approx(errors[others])


def test_best_and_plot(command, tmp_path: Path):
    for latent_dim in (2, 16):
        make_job(tmp_path / "s", [f"model.latent_dim={latent_dim}", "a=[400]"], val__elbo=float(latent_dim))
    code, out, _ = command("best", tmp_path / "s")
    assert code == 0
    assert "model.latent_dim=16 'a=[400]'" in out
    code, out, _ = command("plot", tmp_path / "s", "--to", tmp_path / "figures")
    assert code == 0
    assert len(out.splitlines()) == len(list((tmp_path / "figures").iterdir())) == 2


def test_best_of_a_search_needs_optuna_or_a_metric(command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make_job(tmp_path, ["a=1"], val__elbo=-1.0)
    (tmp_path / STUDY_FILE).touch()
    monkeypatch.delitem(sys.modules, "vae_exp.sweep.search.study", raising=False)
    monkeypatch.setitem(sys.modules, "optuna", None)
    code, _, err = command("best", tmp_path)
    assert code == 1
    assert "needs Optuna" in err
    assert "or name a metric with --metric." in err
    assert "a=1" in command("best", tmp_path, "--metric", "val/elbo")[1]


def test_clean_asks_before_it_removes(command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    job = make_job(tmp_path, ["a=1"], "failed")
    make_job(tmp_path, ["a=2"])
    add_command(tmp_path, [], tmp_path, [])
    monkeypatch.setattr("builtins.input", lambda question: "")
    code, out, _ = command("clean", tmp_path)
    assert (code, job.is_dir()) == (1, True)
    assert str(job) in out
    monkeypatch.setattr("builtins.input", lambda question: "y")
    assert command("clean", tmp_path)[0] == 0
    assert not job.exists()
    assert "Nothing to clean up" in command("clean", tmp_path)[1]


def test_retry_gives_the_commands_again_where_they_were_given(
    command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    sweep = tmp_path / "multirun" / "s"
    make_job(sweep, ["seed=0"])
    add_command(sweep, ["--multirun", "seed=0,1", "sweep.rerun=true"], tmp_path, [["seed=0"]])
    add_command(sweep, ["--multirun", "seed=2", "sweep.name=s"], tmp_path, [["seed=2"]])
    given = []

    def run(argv, folder):
        given.append((list(argv[1:]), folder))
        return 3

    monkeypatch.setattr("vae_exp.sweep.__main__._run", run)
    assert command("retry", sweep, "trusted_packages=[command]")[0] == 3
    assert given == [
        (["-m", "vae_exp.train", "--multirun", "seed=0,1", "sweep.name='s'"], tmp_path),
        (["-m", "vae_exp.train", "--multirun", "seed=2", "sweep.name='s'"], tmp_path),
    ]
    given.clear()
    monkeypatch.chdir(tmp_path)
    command("retry", sweep, "trusted_packages=[my_package]")
    assert given[1][0][-3:] == ["sweep.name='s'", "sweep.checked=true", "trusted_packages=[my_package]"]
    given.clear()
    elsewhere = sweep.rename(tmp_path / "moved")
    command("retry", elsewhere)
    assert given[1][0][-3:] == ["sweep.name='moved'", f"hydra.sweep.dir='{elsewhere}'", "sweep.checked=true"]


@pytest.mark.parametrize("name", ["status", "summary", "plot", "best", "clean"])
def test_a_folder_without_jobs_is_refused(command, tmp_path: Path, name: str):
    assert command(name, tmp_path)[2].endswith("name the directory of a sweep, such as multirun/mine.")
    assert "is not a directory" in command(name, tmp_path / "nowhere")[2]


def test_a_folder_that_says_nothing_of_its_command_cannot_be_retried(command, tmp_path: Path):
    make_job(tmp_path, ["a=1"])
    assert "no sweep.json" in command("retry", tmp_path)[2]


def test_retry_says_what_to_do_after_the_project_has_moved(command, tmp_path: Path):
    make_job(tmp_path / "s", ["seed=0"])
    add_command(tmp_path / "s", ["seed=0"], tmp_path / "old", [["seed=0"]])
    code, _, err = command("retry", tmp_path / "s")
    assert code == 1
    assert "old, which is no longer there; give your command again, in the folder where the project is now" in err
    assert f"with sweep.name='s' hydra.sweep.dir='{tmp_path / 's'}'." in err


def test_hundreds_of_jobs_are_read_in_a_moment(command, tmp_path: Path):
    for number in range(500):
        job = tmp_path / f"seed-{number}"
        (job / ".hydra").mkdir(parents=True)
        (job / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump([f"seed={number}", "data=digits"]))
        metrics = {f"val/metric_{index}": 1.5 * index for index in range(20)} | {"val/elbo": -1.0, "val/loss": 1.0}
        (job / "result.json").write_text(json.dumps({"status": "completed", "metrics": metrics}))
    start = time.perf_counter()
    assert command("status", tmp_path)[0] == 0
    status = time.perf_counter() - start
    assert command("summary", tmp_path, "--csv", tmp_path / "all.csv")[0] == 0
    summary = time.perf_counter() - start - status
    print(f"status {status:.2f} s, summary {summary:.2f} s")
    assert status < 2
    assert summary < 5


def test_retry_waits_for_a_command_that_ends_in_order_and_gives_no_other(
    command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    make_job(tmp_path / "s", ["seed=0"])
    for seed in (0, 1):
        add_command(tmp_path / "s", [f"seed={seed}"], tmp_path, [[f"seed={seed}"]])
    given = []
    monkeypatch.setattr("vae_exp.sweep.__main__._run", lambda argv, folder: given.append(argv) or 130)
    monkeypatch.chdir(tmp_path)
    assert command("retry", tmp_path / "s")[0] == 130
    assert len(given) == 1


def test_a_misspelt_command_is_refused_with_the_nearest_name(command):
    assert command("sumary", "s") == (1, "", "Error: sumary is not a command; did you mean summary?")
