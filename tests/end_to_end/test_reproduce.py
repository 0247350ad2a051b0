"""`python -m vae_exp.reproduce`, with its own rows."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from vae_exp.engine.shutdown import GracefulShutdown
from vae_exp.reproduce import __main__ as reproduce
from vae_exp.reproduce import runs
from vae_exp.reproduce.targets import read_targets

ROWS = """
small:
  what: digits, two epochs, −ELBO
  source: none
  train: [data=digits, trainer.epochs=2]
  evaluate: ["evaluator=[elbo]"]
  metric: test/negative_elbo
  expected: {expected}
  tolerance: 3.0
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """Run the command here, with one small row of this expectation."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, expected: float = 30.0) -> tuple[int, str]:
        (tmp_path / "rows.yaml").write_text(ROWS.format(expected=expected))
        monkeypatch.setattr(reproduce, "read_targets", lambda path: read_targets(tmp_path / "rows.yaml"))
        monkeypatch.setattr(sys, "argv", ["reproduce", *arguments])
        try:
            reproduce.main()
            code: object = 0
        except SystemExit as ended:
            code = ended.code
        return (code if isinstance(code, int) else 1), "".join([*capfd.readouterr(), str(code)])

    return call


def test_a_row_is_trained_evaluated_judged_and_written(run, in_process, tmp_path: Path):
    code, output = run("small")
    assert code == 0, output
    page = (tmp_path / "reproductions" / "reproductions.md").read_text()
    assert re.search(r"<br>cpu, torch .* \| within \|", page)
    assert "reference 30 ± 3: within; written to reproductions/reproductions.md" in output
    before = (tmp_path / "reproductions" / "small" / "checkpoints" / "last.pt").stat().st_mtime_ns
    assert run("small", expected=99.0)[0] == 1  # evaluated again, not trained again
    assert (tmp_path / "reproductions" / "small" / "checkpoints" / "last.pt").stat().st_mtime_ns == before
    assert "| outside |" in (tmp_path / "reproductions" / "reproductions.md").read_text()


@pytest.fixture
def in_process(command, monkeypatch: pytest.MonkeyPatch):
    """Run what `reproduce` runs inside this process."""

    def call(arguments: Sequence[str], shutdown: GracefulShutdown) -> int:
        finished = command(*arguments)
        print(finished.out + finished.err)
        return finished.code

    monkeypatch.setattr(runs, "run_command", call)


@pytest.mark.slow
def test_a_folder_may_have_a_name_that_hydra_would_read_as_several(run, in_process, tmp_path: Path):
    code, output = run("small", "--root", "runs (1), mine")
    assert code == 0, output
    assert (tmp_path / "runs (1), mine" / "small" / "evaluation").is_dir()


def test_a_row_that_cannot_be_run_says_so_and_writes_nothing(run, in_process, tmp_path: Path):
    code, output = run("small", "--override", "trainer.device=nowhere")
    assert code == 1
    assert re.search("small: not run; train of .*/reproductions/small failed, with the message above", output)
    assert not (tmp_path / "reproductions" / "reproductions.md").exists()


@pytest.mark.slow
def test_an_interrupted_run_is_resumed(run, in_process, command, tmp_path: Path):
    arguments = ["data=digits", "trainer.epochs=2", "tracker=none", "evaluator=[elbo]"]
    assert command("train", *arguments, "hydra.run.dir=reproductions/small").code == 0
    (tmp_path / "reproductions" / "small" / "result.json").unlink()
    code, output = run("small", expected=30.0)
    assert code == 0, output
    assert "Resuming" in (tmp_path / "reproductions" / "small" / "train.log").read_text()


def test_without_names_the_rows_are_listed(run):
    code, output = run()
    assert code == 0
    assert "digits, two epochs, −ELBO" in output


def test_an_unknown_name_is_refused(run):
    code, output = run("large")
    assert code == 1
    assert "large is not a reproduction; known are small" in output


@pytest.mark.parametrize(
    "override",
    ["trainer.epochs=1", "seed=3", "+optimizer.lr=1", "loss/schedule@loss.beta=linear", "data=mnist"],
)
def test_an_override_that_changes_the_recipe_is_refused(run, tmp_path: Path, override: str):
    code, output = run("small", "--override", "trainer.device=cpu", "--override", override)
    assert code == 1
    assert f"--override {override} may change the numbers of a row" in output
    assert "only trainer.device, trainer.execution, trainer.steps_per_graph, trainer.threads, " in output
    assert not (tmp_path / "reproductions").exists()


def test_a_table_that_cannot_be_written_is_refused_before_any_training(run, tmp_path: Path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    output = {path: run("small", "--table", path) for path in ("file/page.md", "folder", "bytes")}
    assert {code for code, _ in output.values()} == {1}
    assert "--table=" in output["file/page.md"][1]
    assert "cannot be written to" in output["file/page.md"][1]
    assert "--table=folder is a directory; name a page" in output["folder"][1]
    assert "--table=bytes cannot be read" in output["bytes"][1]
    assert not (tmp_path / "reproductions").exists()
