"""Real processes, really interrupted."""

import json
import signal
import subprocess
from pathlib import Path

import pytest

from tests.conftest import start
from tests.readers import read_result
from tests.wandb_records import runs
from vae_exp import load_run
from vae_exp.tracking.metrics_file import JsonlMetrics

LONG = ("data=digits", "trainer.epochs=100000", "model.hidden_dims=[8]")


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    for line in process.stdout:
        if text in line:
            return
    pytest.fail(f"ended without saying {text!r}: {process.stderr.read()}")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_a_signal_ends_the_run_in_order(number, code, tmp_path):
    process = start("train", *LONG, "hydra.run.dir=run", cwd=tmp_path)
    wait_for(process, "Epoch 3/")
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Traceback" not in err
    result = read_result(tmp_path / "run")
    assert result["status"] == "interrupted"
    assert result["epochs"] >= 3
    assert f"Interrupted after {result['epochs']} epochs; everything up to here is in " in err
    run = load_run(tmp_path / "run", checkpoint="last")
    assert run.epoch == result["epochs"]
    written = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(written) == result["epochs"]
    [records] = runs(tmp_path)
    [end] = [record.exit for record in records if record.WhichOneof("record_type") == "exit"]
    assert end.exit_code == code
    assert not list(Path(tmp_path / "run").rglob("*.tmp"))


def test_a_signal_while_the_class_of_the_data_is_imported_ends_the_run_in_order(tmp_path):
    """An import that is cut leaves half a module, which whatever imports it next cannot use."""
    (tmp_path / "own.py").write_text(
        "import signal\n\n"
        "from vae_exp.data.digits import DigitsSource as Source\n\n"
        "signal.raise_signal(signal.SIGINT)\n"
    )
    overrides = (*LONG, "data.source._target_=own.Source", "tracker=none", "hydra.run.dir=run")
    process = start("train", *overrides, cwd=tmp_path)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Stopping" in err
    assert "Error" not in out + err
    assert read_result(tmp_path / "run")["status"] == "interrupted"


@pytest.mark.slow
def test_a_sweep_ends_with_its_table(command, tmp_path, monkeypatch):
    log = JsonlMetrics.log

    def interrupt(self, metrics, step):
        log(self, metrics, step)
        if metrics["epoch"] == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(JsonlMetrics, "log", interrupt)
    finished = command("train", "--multirun", *LONG, "tracker=none", "seed=0,1,2", "sweep.name=mine")
    assert finished.code == 130, finished.err
    assert "interrupted" in finished.out
    assert "Run the same command to continue." in finished.err
    assert "resume=" not in finished.err
    assert len([path for path in (tmp_path / "multirun" / "mine").iterdir() if path.is_dir()]) == 1
    assert (tmp_path / "multirun" / "mine" / "summary.csv").exists()


@pytest.mark.slow
def test_a_killed_run_leaves_whole_files(tmp_path):
    process = start("train", *LONG, "checkpoint.every_n_epochs=1", "hydra.run.dir=run", cwd=tmp_path)
    wait_for(process, "Epoch 60/")
    process.kill()
    process.communicate(timeout=60)
    assert not (tmp_path / "run" / "result.json").exists()
    assert load_run(tmp_path / "run", checkpoint="last").epoch >= 4
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        assert json.loads(line)["epoch"] >= 1
