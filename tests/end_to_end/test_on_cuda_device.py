"""Whole runs on a real CUDA device: torchrun, the pool, every evaluator with deterministic kernels."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import vae_exp
from tests.readers import read_result
from vae_exp.evaluation.nll import NLLEvaluator
from vae_exp.evaluation.quadrature import QuadratureEvaluator

pytestmark = pytest.mark.cuda

RUN = ("data=digits", "trainer.epochs=2", "tracker=none", "evaluator=[elbo]", "trainer.device=cuda")


def _result(run: Path) -> dict[str, Any]:
    result = read_result(run)
    assert result["status"] == "completed", result
    assert "cuda:" in result["device"], result["device"]
    return result


@pytest.mark.parametrize("size", [1, 2])
def test_a_team_trains_with_nccl(tmp_path: Path, size: int):
    if torch.cuda.device_count() < size:
        pytest.skip(f"needs {size} CUDA devices")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
    found = subprocess.run(
        [*launcher, "-m", "vae_exp.train", *RUN, "trainer=ddp", "trainer.batch_size=130", "hydra.run.dir=run"],
        check=False,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    _result(tmp_path / "run")


def test_jobs_of_a_pool_use_the_device_two_at_a_time(process, tmp_path: Path):
    """Each in a process forked from a server, which must not have touched CUDA."""
    launcher = ("hydra/launcher=pool", "hydra.launcher.slots_per_gpu=2", "sweep.name=s")
    found = process("train", "--multirun", *RUN, *launcher, "seed=0,1,2", timeout=250)
    assert found.code == 0, found.out + found.err
    jobs = sorted((tmp_path / "multirun" / "s").glob("*/result.json"))
    assert len(jobs) == 3
    for job in jobs:
        _result(job.parent)


@pytest.mark.parametrize("name", ["aggregate", "elbo", "fid", "figures", "gaps", "nll", "probe", "quadrature",
                                  "units"])  # fmt: skip
def test_every_evaluator_runs_with_deterministic_kernels(process, tmp_path: Path, name: str):
    deterministic = ("trainer.deterministic=true", f"evaluator=[{name}]", "hydra.run.dir=run")
    found = process("train", *RUN, *deterministic, *EXTRA.get(name, ()), timeout=250)
    assert found.code == 0, found.out + found.err
    _result(tmp_path / "run")


EXTRA: dict[str, tuple[str, ...]] = {
    "gaps": ("evaluator.gaps.num_images=20", "evaluator.gaps.num_steps=20"),
    "quadrature": ("evaluator.quadrature.num_images=10",),
    "nll": ("evaluator.nll.num_importance_samples=50",),
}


def test_the_same_run_gives_the_same_bits_with_deterministic_kernels(process, tmp_path: Path):
    for name in ("one", "two"):
        found = process(
            "train", *RUN, "model=conv", "trainer.deterministic=true", f"hydra.run.dir={name}", timeout=250
        )
        assert found.code == 0, found.out + found.err
    one, two = (
        torch.load(tmp_path / name / "checkpoints" / "last.pt", weights_only=True) for name in ("one", "two")
    )
    assert all(torch.equal(one["vae"][key], two["vae"][key]) for key in one["vae"])


def test_quadrature_and_nll_are_those_of_the_cpu(copied_run: Path):
    """The exact evidence to rounding; the estimate within its errors, because other noise is drawn."""
    exact, estimate = {}, {}
    for device in ("cpu", "cuda"):
        run = vae_exp.load_run(copied_run, device=device)
        images = run.data.test.to(run.device)
        noise = torch.Generator(run.device).manual_seed(0)
        found = dict(QuadratureEvaluator(201, 6.0, 50, None).run(run.vae, images, noise))
        exact[device] = {name: value for name, value in found.items() if isinstance(value, float)}
        estimate[device] = dict(NLLEvaluator(1000, 50, None, None).run(run.vae, images, noise))
    assert exact["cpu"]
    assert exact["cuda"] == pytest.approx(exact["cpu"], rel=1e-4, abs=1e-3)
    spread = estimate["cpu"]["nll_monte_carlo_se"] + estimate["cuda"]["nll_monte_carlo_se"]
    assert estimate["cuda"]["nll"] == pytest.approx(estimate["cpu"]["nll"], abs=5 * spread)
