"""Runs of `wandb agent`; the agent itself is in tests/end_to_end/test_wandb_agent.py."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.wandb_records import runs
from vae_exp.tracking.wandb_sweep import sweep_parameters, with_keys_of_sweep

CONFIG = {
    "seed": 3,
    "model": {"latent_dim": 2, "prior": {"sigma": 1.0}, "freeze": []},
    "optimizer": {"lr": 0.1, "betas": {}},
}
FLAT_MODEL = {"model.latent_dim": 2, "model.prior.sigma": 1.0, "model.freeze": []}


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, CONFIG),
        ({"seed": 3, "epochs": 2}, CONFIG),
        ({"model": {"latent_dim": 2}}, CONFIG),
        ({"model/prior": "vamp"}, CONFIG),
        ({"model.latent_dim": 2}, {"seed": 3, **FLAT_MODEL, "optimizer": CONFIG["optimizer"]}),
        ({"model": "mlp"}, {"seed": 3, **FLAT_MODEL, "optimizer": CONFIG["optimizer"]}),
        (
            {"model": {"prior": "vamp"}, "optimizer.lr": None},
            {
                "seed": 3,
                "model": {"latent_dim": 2, "prior.sigma": 1.0, "freeze": []},
                "optimizer.lr": 0.1,
                "optimizer.betas": {},
            },
        ),
    ],
)
def test_each_value_that_a_sweep_sets_has_one_key(parameters: dict[str, Any], expected: dict[str, Any]):
    assert with_keys_of_sweep(CONFIG, parameters) == expected


def test_a_run_outside_a_sweep_has_no_parameters():
    assert sweep_parameters() == {}


SCRIPT = """
import sys
from pathlib import Path
from vae_exp.tracking.wandb_tracker import WandbTracker
config = {"seed": 3, "model": {"latent_dim": 2, "width": 5}, "loss": {"beta": 1.0}}
WandbTracker(
    mode="offline", root=Path(sys.argv[1]), project="ours", group=None, name="a run", tags=[], config=config
).finish(0, {})
"""


def test_an_offline_run_of_an_agent_keeps_the_id_the_sweep_and_its_keys(tmp_path: Path):
    path = tmp_path / "parameters.yaml"
    path.write_text("wandb_version: 1\n\nmodel.latent_dim:\n  value: 2\nloss:\n  value:\n    beta: 1.0\n")
    agent = {"WANDB_RUN_ID": "run7", "WANDB_SWEEP_ID": "sweep1", "WANDB_PROJECT": "theirs"}
    environment = {**os.environ, **agent, "WANDB_SWEEP_PARAM_PATH": str(path), "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], env=environment, timeout=90, check=True)
    [records] = runs(tmp_path)
    [run] = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert (run.run_id, run.sweep_id, run.project) == ("run7", "sweep1", "theirs")
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    config.pop("_wandb")
    assert config == {"seed": 3, "model.latent_dim": 2, "model.width": 5, "loss": {"beta": 1.0}}
