"""W&B's environment variables, and the artifacts of a run, from the command to the server."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.readers import read_result
from tests.tracking.wandb_server import WandbServer, serve
from tests.wandb_records import runs
from vae_exp.runs.trained_run import load_run

SHORT = ["data=digits", "trainer.epochs=1", "evaluator=[]", "model.hidden_dims=[4]"]


def _started(root: Path) -> list[Any]:
    """What each segment says of its run."""
    return [next(record.run for record in segment if record.HasField("run")) for segment in runs(root)]


@pytest.mark.slow
def test_variables_decide_where_a_run_lands_and_a_resumed_run_stays_there(
    command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("WANDB_PROJECT", "foo")
    monkeypatch.setenv("WANDB_DIR", "elsewhere")
    monkeypatch.setenv("WANDB_NAME", "other")
    finished = command("train", *SHORT, "tracker.name=mine", "hydra.run.dir=run")
    assert finished.code == 0, finished.err
    assert "The config decides: tracker.name=mine, not WANDB_NAME=other." in finished.out
    monkeypatch.setenv("WANDB_PROJECT", "bar")
    monkeypatch.setenv("WANDB_NOTES", "later")
    resumed = command("train", "resume=run", "trainer.epochs=2")
    assert resumed.code == 0, resumed.err
    assert "tracker.project=foo, " in resumed.out
    first, second = _started(tmp_path / "elsewhere")
    assert (first.project, first.display_name, first.run_id) == ("foo", "mine", second.run_id)
    assert (second.project, second.display_name, second.notes) == ("foo", "mine", "")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert command("train", *SHORT, "hydra.run.dir=untracked").code == 0
    assert read_result(tmp_path / "untracked")["wandb"] is None


@pytest.mark.slow
def test_the_best_checkpoint_and_the_sources_are_uploaded_by_sync(
    command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "own_loss.py").write_text("from vae_exp.objective.elbo import ELBO as Mine\n")
    monkeypatch.syspath_prepend(tmp_path)
    artifacts = ["tracker.log_checkpoint=best", "tracker.save_code=true", "loss._target_=own_loss.Mine"]
    finished = command("train", *SHORT, *artifacts, "hydra.run.dir=run")
    assert finished.code == 0, finished.err
    result = read_result(tmp_path / "run")
    run_id = result["wandb"]["run_id"]
    with serve(WandbServer([])) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        assert "1 uploaded, 0 failed" in command("sync", "run").out
    artifacts = server.runs[run_id].artifacts
    assert artifacts[f"model-{run_id}"] == {
        "type": "model",
        "metadata": {"monitor": "val/loss", **result["best"]},
        "aliases": ["best", "latest"],
        "committed": True,
    }
    assert (artifacts["source-vae_exp"]["type"], artifacts["source-vae_exp"]["committed"]) == ("code", True)
    sources = {name.partition("source-vae_exp/")[2] for name in server.uploads}
    assert {"own_loss.py", "vae_exp/train.py", "vae_exp/engine/trainer.py"} <= sources
    prefix = f"{run_id}/model-{run_id}/"
    for name, content in server.uploads.items():
        if name.startswith(prefix):
            file = tmp_path / "downloaded" / name.removeprefix(prefix)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    mine, uploaded = (load_run(tmp_path / name, trusted_packages=["own_loss"]) for name in ("run", "downloaded"))
    for weight, expected in zip(uploaded.vae.parameters(), mine.vae.parameters(), strict=True):
        assert torch.equal(weight, expected)
    assert json.loads((tmp_path / "run" / "wandb.json").read_text())["error"] is None
