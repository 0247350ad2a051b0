"""Several processes for one run, by the real torchrun with gloo on the CPU."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch import nn

from tests.conftest import CHECKOUT, start
from tests.engine.distributed_member import free_port, launch_environment
from tests.readers import read_metrics, read_result, without_times
from vae_exp.model.encoders import MLPEncoder

RUN = (
    "data=digits", "trainer.epochs=2", "tracker=none", "evaluator=[elbo]", "trainer.batch_size=130",
    "data.binarization=dynamic", "trainer.max_grad_norm=300", "trainer.device=cpu", "hydra.run.dir=run",
)  # fmt: skip


def torchrun(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.Popen(
        [*command, "-m", "vae_exp.train", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(CHECKOUT), *sys.path])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def lines(run: Path) -> list[dict[str, float]]:
    return [without_times(row) for row in read_metrics(run)]


class IdleEncoder(MLPEncoder):
    """Has a parameter that takes no part in the loss: no process may wait for its gradient."""

    def __init__(self, *arguments, **keywords) -> None:
        super().__init__(*arguments, **keywords)
        self.idle = nn.Linear(3, 3)


@pytest.mark.slow
def test_two_processes_train_what_one_would(command, tmp_path, monkeypatch):
    """As torchrun starts them, which the slow tests do; the first is this process."""
    idle = f"model.encoder._target_={__name__}.IdleEncoder"
    assert command("train", *RUN, idle).code == 0
    together = (*RUN[:-1], idle, "trainer=ddp", "hydra.run.dir=two")
    port, paths = free_port(), os.pathsep.join([str(CHECKOUT), *sys.path])
    second = start("train", *together, cwd=tmp_path, env={**launch_environment(1, 2, port), "PYTHONPATH": paths})
    for name, value in launch_environment(0, 2, port).items():
        monkeypatch.setenv(name, value)
    first = command("train", *together)
    out, err = second.communicate(timeout=60)
    assert (first.code, second.returncode) == (0, 0), first.err + err
    rows, rows_together = lines(tmp_path / "run"), lines(tmp_path / "two")
    assert len(rows) == len(rows_together) == 3
    for one, other in zip(rows, rows_together, strict=True):
        assert other == pytest.approx(one, rel=1e-5)
    assert (first.out + out).count("Epoch 2/2") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"run", "two"}
    assert (tmp_path / "two" / "train.log").read_text().count("Training ") == 1


@pytest.mark.slow
def test_a_team_that_is_interrupted_ends_in_order_and_is_resumed(tmp_path):
    long = [*RUN[:1], "trainer.epochs=100000", *RUN[2:3], "evaluator=[]", *RUN[4:], "trainer=ddp"]
    team = torchrun(*long, cwd=tmp_path)
    for line in team.stdout:
        if "Epoch 3/" in line:
            break
    team.send_signal(signal.SIGINT)
    team.communicate(timeout=60)
    result = read_result(tmp_path / "run")
    assert result["status"] == "interrupted"
    more = result["epochs"] + 2
    resumed = torchrun("resume=run", f"trainer.epochs={more}", cwd=tmp_path)
    out, _ = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, out
    result = read_result(tmp_path / "run")
    assert (result["status"], result["epochs"]) == ("completed", more)


@pytest.mark.slow
def test_several_processes_without_ddp_are_refused(tmp_path):
    began = time.monotonic()
    team = torchrun(*RUN, cwd=tmp_path)
    out, _ = team.communicate(timeout=100)
    assert team.returncode != 0
    assert "use trainer=ddp" in out
    assert time.monotonic() - began < 60
