"""`wandb sweep` and `wandb agent`, W&B's own, with a server on the loopback address."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CHECKOUT
from tests.readers import read_metrics, read_result
from tests.tracking.wandb_server import SWEEP, WandbServer, serve
from vae_exp.configuration.stored_config import load_stored_config
from vae_exp.storage.run_directory import RunDirectory

WANDB = """
from wandb.cli.cli import cli
from wandb.wandb_agent import Agent
Agent.POLL_INTERVAL = 0.1
cli()
"""
SHORT = {"trainer.epochs": 1, "evaluator": []}
PARAMETERS: list[dict[str, Any]] = [
    {"model": {"latent_dim": 3, "hidden_dims": [20, 10]}, "optimizer": {"lr": 0.001}, **SHORT},
    {"model.latent_dim": 4, "optimizer.lr": 1e-05, "trainer.max_grad_norm": None, "loss": "iwae", **SHORT},
    {"model": {"latent_dim": 0}, **SHORT},
    {"model": {"latent_dim": 5}, **SHORT},
]


def _wandb(server: WandbServer, cwd: Path, *arguments: str) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    finished = subprocess.run(
        [sys.executable, "-c", WANDB, *arguments],
        cwd=cwd,
        env={**os.environ, **server.environment, "PATH": path, "HOME": str(cwd), "WANDB_SILENT": "false"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout + finished.stderr


@pytest.mark.slow
def test_an_agent_starts_the_runs_of_a_sweep(tmp_path: Path):
    """Nested and dotted parameters; the third run is refused, and ends the agent by its exit code."""
    with serve(WandbServer(PARAMETERS)) as server:
        created = _wandb(server, tmp_path, "sweep", str(CHECKOUT / "docs" / "wandb_sweep.yaml"))
        assert f"wandb agent someone/vae_exp/{SWEEP}" in created
        assert server.sweep["metric"] == {"name": "val/loss", "goal": "minimize"}
        agent = _wandb(server, tmp_path, "agent", "--max-consecutive-failed-runs", "1", f"someone/vae_exp/{SWEEP}")
    assert "Error: model.latent_dim=0 must be at least 1" in agent
    assert "Detected 1 consecutive failed runs" in agent
    assert sorted(server.runs) == ["run1", "run2"]
    runs = {read_result(path)["wandb"]["run_id"]: path for path in tmp_path.glob("outputs/*/*/")}
    assert sorted(runs) == ["run1", "run2"]
    for run_id, path in runs.items():
        run, result = server.runs[run_id], read_result(path)
        assert (run.sweep, run.exit_code, result["wandb"]["error"]) == (SWEEP, 0, None)
        [row] = read_metrics(path)
        assert [x["val/loss"] for x in run.rows] == [row["val/loss"]] == [run.summary["val/loss"]]
        assert run.config["run_directory"] == str(path)
    first, second = (load_stored_config(RunDirectory(runs[run_id])) for run_id in ("run1", "run2"))
    assert (first.model.latent_dim, first.model.hidden_dims, first.optimizer.lr) == (3, [20, 10], 0.001)
    assert (second.model.latent_dim, second.optimizer.lr, second.trainer.max_grad_norm) == (4, 1e-05, None)
    config = server.runs["run1"].config
    assert (config["model"]["latent_dim"], config["model"]["activation"]) == (3, "relu")
    assert not [key for key in config if key.startswith(("model.", "optimizer."))]
    config = server.runs["run2"].config
    assert (config["model.latent_dim"], config["model.activation"]) == (4, "relu")
    assert (config["loss"], config["loss._target_"]) == ("iwae", second.loss._target_)
    assert not {"model", "optimizer", "trainer"} & set(config)
