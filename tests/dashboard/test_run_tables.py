"""Tables of runs that wandb itself has written, and their files."""

import csv
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

import vae_exp
from tests.dashboard.records import append, history_record, make_run, stats_record
from tests.documentation_blocks import python_code
from vae_exp.dashboard.__main__ import main
from vae_exp.dashboard.web.redaction import Redactor
from vae_exp.dashboard.web.table_export import _redact
from vae_exp.errors import UserError

# A run that diverged, and scores that are added to its summary afterwards.
SCRIPT = """
import numpy as np, wandb
who = {"id": "0123abcd", "project": "p", "resume": "allow", "mode": "offline"}
who["settings"] = wandb.Settings(silent=True, x_disable_stats=True, console="off")
config = {"model": {"latent_dim": 2, "hidden_dims": [200, 100]}, "seed": 1, "run_directory": "/runs/a", "lr": 1e-3}
run = wandb.init(**who, config=config, name="a run", group="g", job_type="train")
for epoch in (1, 2):
    run.log({"epoch": epoch, "val/elbo": -3.0 / epoch, "val/unit_rates": [1.5, 2.5]}, step=10 * epoch)
run.log({"train/loss": 7.0, "figures/x": wandb.Image(np.zeros((2, 2)))}, step=30)
run.summary.update({"status": "diverged", "best/val/elbo": -1.0, "best/epoch": 2})
run.finish(exit_code=1)
scores = wandb.init(**who)
scores.summary.update({"test/nll": 2.5, "test/epoch": 2})
scores.finish()
"""


@pytest.fixture(scope="module")
def by_wandb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What wandb itself writes; it has written all when its process has ended."""
    root = tmp_path_factory.mktemp("by_wandb")
    environment = {
        name: value for name, value in os.environ.items() if "WANDB_SERVICE" not in name
    }  # of this process
    subprocess.run([sys.executable, "-c", SCRIPT], cwd=root, env=environment, check=True, timeout=120)
    return root


def test_a_run_and_the_scores_that_were_added_to_it(by_wandb: Path):
    runs = vae_exp.read_runs(by_wandb)
    assert len(runs) == 1
    info = {name: column[0] for name, column in runs.info.items()}
    assert info.pop("started") > 1.7e9
    assert info == {
        "run_id": "0123abcd", "name": "a run", "group": "g", "project": "p", "job_type": "train",
        "state": "diverged", "directory": "/runs/a", "data_loss": "", "notes": "",
    }  # fmt: skip
    config = {name: column.tolist() for name, column in runs.config.items()}
    assert config == {
        "run_id": ["0123abcd"], "model.latent_dim": [2], "model.hidden_dims": ["[200, 100]"], "seed": [1],
        "run_directory": ["/runs/a"], "lr": [1e-3],
    }  # fmt: skip
    summary = {name: column[0] for name, column in runs.summary.items()}
    expected = {
        "val/elbo": -1.5, "best/val/elbo": -1.0, "best/epoch": 2, "test/nll": 2.5, "test/epoch": 2, "epoch": 2,
        "train/loss": 7.0, "status": "diverged", "val/unit_rates": "[1.5, 2.5]",
    }  # fmt: skip
    assert {name: summary[name] for name in expected} == expected
    assert summary["_runtime"] >= runs.history["_runtime"].max()
    assert not [name for name in summary if name.startswith("figures")]


def test_the_example_of_the_page_runs_with_what_is_installed(by_wandb: Path, tmp_path: Path, monkeypatch, capsys):
    [code] = python_code("docs/how_to/dashboard.md")
    (tmp_path / "multirun").mkdir()
    (tmp_path / "multirun" / "mine").symlink_to(by_wandb)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert capsys.readouterr().out == "a run -1.0\n"


def test_the_history_has_a_row_for_each_step(by_wandb: Path):
    history = vae_exp.read_runs([by_wandb]).history
    assert history["run_id"].tolist() == ["0123abcd"] * 3
    assert history["_step"].tolist() == [10, 20, 30]
    np.testing.assert_array_equal(history["val/elbo"], [-3.0, -1.5, np.nan])
    np.testing.assert_array_equal(history["train/loss"], [np.nan, np.nan, 7.0])


def test_columns_are_ready_for_pyarrow(by_wandb: Path):
    runs = vae_exp.read_runs(by_wandb)
    for columns in (runs.info, runs.config, runs.summary, runs.history, runs.table):
        table = pyarrow.table(columns)
        assert {len(column) for column in columns.values()} == {table.num_rows}
    assert pyarrow.table(runs.config).schema.field("model.latent_dim").type == pyarrow.int64()


def test_runs_of_several_kinds_share_columns(tmp_path: Path):
    """Missing and mixed values; a resumed run, a job that was run again, and numbers that JSON does not have."""
    first = {"run_directory": "/runs/a", "beta": 1, "name": "relu", "mixed": 1, "flag": True}
    make_run(tmp_path, "again", first, [{"m": 1.0}], 1, started=1_700_000_100)
    make_run(tmp_path, "last", first, [{"m": 1.0}, {"m": float("nan")}], started=1_700_000_200)
    make_run(tmp_path, "other", {"beta": 2.5, "mixed": "text", "bad": "\ud800"}, [{"m": 5.0}] * 3)
    resumed = make_run(tmp_path, "other", {"n": 2}, started=1_700_000_050)
    append(resumed, history_record(30, {"m": 6.0, "k": 1.0}), stats_record(1, {"cpu": 1.0}))
    runs = vae_exp.read_runs(str(tmp_path))
    assert runs.info["run_id"].tolist() == ["other", "last"]
    columns = {name: column.tolist() for name, column in runs.config.items()}
    assert (columns["beta"], columns["name"], columns["mixed"]) == ([2.5, 1.0], ["", "relu"], ["text", "1"])
    assert (columns["flag"], columns["bad"]) == (["", "true"], ["?", ""])
    np.testing.assert_array_equal(runs.config["n"], [2.0, np.nan])
    np.testing.assert_array_equal(runs.summary["m"], [5.0, np.nan])
    assert runs.history["run_id"].tolist() == ["other"] * 3 + ["last"] * 2
    assert runs.history["_step"].tolist() == [10, 20, 30, 10, 20]
    np.testing.assert_array_equal(runs.history["m"], [5.0, 5.0, 6.0, 1.0, np.nan])
    np.testing.assert_array_equal(runs.history["k"], [np.nan, np.nan, 1.0, np.nan, np.nan])


def test_what_cannot_be_read_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"^ROOT=missing does not exist; name folders such as"):
        vae_exp.read_runs("missing")
    with pytest.raises(UserError, match=r"^there are no \.wandb files below "):
        vae_exp.read_runs(tmp_path)
    make_run(tmp_path, "one")
    make_run(tmp_path, "strange").write_bytes(b"not a log")
    with pytest.warns(UserWarning, match="1 file could not be read, such as run-strange.wandb: unknown format"):
        assert len(vae_exp.read_runs(tmp_path)) == 1


@pytest.fixture
def export(by_wandb: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def run(path: Path, *options: str) -> None:
        monkeypatch.setattr(sys, "argv", ["dashboard", str(by_wandb), "--export", str(path), *options])
        main()

    return run


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".npz"])
def test_a_table_is_a_file(export: Callable[..., None], by_wandb: Path, tmp_path: Path, suffix: str, capsys):
    path = tmp_path / f"runs{suffix}"
    export(path, "--private")
    table = vae_exp.read_runs(by_wandb).table
    expected = {name: column.tolist()[0] for name, column in table.items()}
    if suffix == ".parquet":
        [row] = parquet.read_table(path).to_pylist()
    elif suffix == ".npz":
        row = {name: values[0] for name, values in np.load(path).items()}
    else:
        [row] = csv.DictReader(io.StringIO(path.read_text(), newline=""))
        expected = {name: str(value) for name, value in expected.items()}
    assert row == expected
    assert row["config.run_directory"] == row["directory"] == "/runs/a"
    assert float(row["summary.test/nll"]) == 2.5
    assert capsys.readouterr().out == f"1 run, 1 row, {len(expected)} columns, written to {path}\n"


def test_the_history_is_a_file_and_paths_are_left_out(export: Callable[..., None], tmp_path: Path):
    export(tmp_path / "history.parquet", "--history")
    assert parquet.read_table(tmp_path / "history.parquet")["_step"].to_pylist() == [10, 20, 30]
    export(tmp_path / "runs.parquet")
    [row] = parquet.read_table(tmp_path / "runs.parquet").to_pylist()
    assert row["config.run_directory"] == row["directory"] == "(left out)"


def test_columns_whose_names_are_left_out_stay_apart(tmp_path: Path):
    columns = {"a /home/x": np.array(["one"]), "a /home/y": np.array(["two"]), "text": np.array([], dtype=np.str_)}
    redacted = _redact(columns, Redactor([]))
    assert {name: values.tolist() for name, values in redacted.items()} == {
        "a (left out)": ["one"], "a (left out) 2": ["two"], "text": [],
    }  # fmt: skip
    assert redacted["text"].dtype.kind == "U"


def test_a_history_without_rows_is_a_file_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make_run(tmp_path, "one")
    path = tmp_path / "history.parquet"
    monkeypatch.setattr(sys, "argv", ["dashboard", str(tmp_path), "--export", str(path), "--history"])
    main()
    table = parquet.read_table(path)
    assert table.num_rows == 0
    assert {field.name: field.type for field in table.schema} == {
        "run_id": pyarrow.string(),
        "_step": pyarrow.int64(),
    }


def test_files_are_refused(export: Callable[..., None], tmp_path: Path):
    path = tmp_path / "runs.csv"
    path.write_text("mine")
    for name, options, message in (
        ("runs.csv", [], f"--export={path} exists; --overwrite replaces it."),
        ("runs.xlsx", [], "runs.xlsx must end in .html, .npz, .parquet or .csv."),
        ("page.html", ["--history"], "--history has no effect with --export of a page."),
        ("page.html", ["--port", "0"], "--port has no effect with --export of a page."),
        ("page.html", ["--bind", "0.0.0.0"], "--bind has no effect with --export of a page."),
        ("x.csv", ["--size-limit", "50"], "--size-limit has no effect with --export of a table."),
        ("page.html", ["--size-limit", "nan"], "--size-limit nan: expected megabytes, more than 0."),
        ("x.csv", ["--last-pictures"], "--last-pictures has no effect with --export of a table."),
        ("missing/../runs.csv/x.csv", [], "cannot be written"),
    ):
        with pytest.raises(SystemExit) as ended:
            export(tmp_path / name, *options)
        assert message in str(ended.value)
    assert path.read_text() == "mine"
    assert [x.name for x in tmp_path.iterdir()] == ["runs.csv"]
    export(path, "--overwrite")
    assert path.read_text().startswith("run_id,name,group,project,")


def test_options_of_exports_are_refused_without_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for option in (["--private"], ["--size-limit", "50"]):
        monkeypatch.setattr(sys, "argv", ["dashboard", str(tmp_path), *option])
        with pytest.raises(SystemExit, match=rf"{option[0]} has no effect without --export\."):
            main()


def test_it_needs_no_torch():
    script = "import sys, vae_exp; vae_exp.read_runs; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
