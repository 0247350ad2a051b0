"""A sweep on a real local Ray: two CPUs, two declared GPUs; one job fails, one is killed, none is lost."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = Path(__file__).parents[1] / "end_to_end" / "faults.py"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

WITH_GPU = """
import os
import faults

class Encoder(faults.Encoder):
    def __init__(self, number, **sizes):
        super().__init__(number, **sizes)
        with open("gpus.txt", "a") as file:
            file.write(os.environ.get("CUDA_VISIBLE_DEVICES", "none") + "\\n")
"""


def sweep(folder: Path, *overrides: str, **environment: str) -> subprocess.CompletedProcess[str]:
    shutil.copy(FAULTS, folder)
    (folder / "seeing.py").write_text(WITH_GPU)
    launcher = [
        "hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2", "+hydra.launcher.ray.init.num_gpus=2",
        "hydra.launcher.ray.remote.num_gpus=1", "sweep.name=s",
    ]  # fmt: skip
    argv = [
        "--multirun", *launcher, "data=digits", "trainer.epochs=3", "tracker=none", "evaluator=[]",
        "trainer.device=cpu",
        "model.encoder._target_=seeing.Encoder", "+model.encoder.number=choice(0,1,2,3,4)", *overrides,
    ]  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", "vae_exp.train", *argv],
        cwd=folder,
        env={
            **os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": os.pathsep.join([str(folder), *sys.path]),
            "HOME": str(folder), **environment,
        },
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def statuses(folder: Path) -> dict[str, str]:
    with (folder / "multirun" / "s" / "summary.csv").open() as file:
        return {row["model.encoder.number"]: row["status"] for row in csv.DictReader(file)}


def test_a_failed_and_a_killed_job_harm_no_other_and_run_once(tmp_path: Path):
    pytest.importorskip("ray", reason="ray is not installed: pip install hydra-ray-launcher ray")
    ended = sweep(tmp_path)
    assert ended.returncode != 0
    assert (tmp_path / "multirun" / "s" / "summary.csv").exists(), ended.stdout + ended.stderr
    assert statuses(tmp_path) == {
        "0": "completed", "1": "failed", "2": "completed", "3": "killed", "4": "completed",
    }, ended.stdout + ended.stderr  # fmt: skip
    gpus = (tmp_path / "gpus.txt").read_text().split()
    assert len(gpus) == 5  # a killed job is not run again
    assert set(gpus) == {"0", "1"}
    again = sweep(tmp_path, MENDED="1")
    assert again.returncode == 0, again.stdout + again.stderr
    assert set(statuses(tmp_path).values()) == {"completed"}
    assert len((tmp_path / "gpus.txt").read_text().split()) == 7  # two of them once more
    for path in (tmp_path / "multirun" / "s").glob("*/result.json"):
        assert json.loads(path.read_text())["epochs"] == 3
