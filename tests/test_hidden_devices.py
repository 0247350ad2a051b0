"""Tests that are not marked `cuda` see no CUDA device, on a machine with one too; and `make gpu-check`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import CHECKOUT

PRETENDS = """
import torch
torch.cuda.is_available = lambda: True
torch.cuda.device_count = lambda: 2
torch.cuda.empty_cache = lambda: None
"""
TESTS = """
import os, subprocess, sys
import pytest, torch

def seen():
    child = subprocess.check_output([sys.executable, "-c", "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"])
    return torch.cuda.is_available(), torch.cuda.device_count(), child.decode().strip()

@pytest.fixture(scope="session")
def of_session():
    return seen()

@pytest.mark.cuda
def test_marked_first():
    assert seen() == (True, 2, "5,6")

def test_unmarked(of_session):
    assert seen() == of_session == (False, 0, "")

@pytest.mark.cuda
def test_marked_last():
    assert seen() == (True, 2, "5,6")
"""


@pytest.mark.slow
def test_devices_are_hidden_from_tests_that_are_not_marked(tmp_path: Path):
    (tmp_path / "pretends.py").write_text(PRETENDS)
    (tmp_path / "test_seen.py").write_text(TESTS)
    arguments = ["-p", "pretends", "-p", "tests.conftest", "-p", "no:cacheprovider", "-q", str(tmp_path)]
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", str(CHECKOUT / "pyproject.toml"), *arguments],
        check=False,
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{CHECKOUT}", "CUDA_VISIBLE_DEVICES": "5,6"},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert "3 passed" in found.stdout


def test_no_device_is_seen_here():
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert not torch.cuda.is_available()


@pytest.mark.parametrize("failing", ["pytest", "vae_exp.benchmark", "nothing"])
def test_the_gpu_check_runs_the_benchmark_after_a_red_test_and_fails(tmp_path: Path, failing: str):
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    found = '[ "$1" = -c ] && echo True && exit 0'
    python.write_text(f"#!/bin/sh\n{found}\necho $2 >> {tmp_path}/ran\n[ $2 != {failing} ]\n")
    python.chmod(0o755)
    (tmp_path / ".installed").touch()
    found = subprocess.run(
        ["make", "-s", "gpu-check", f"VENV={tmp_path}"], check=False, cwd=CHECKOUT, capture_output=True, text=True
    )
    assert (tmp_path / "ran").read_text().split() == ["pytest", "vae_exp.benchmark"]
    assert (found.returncode != 0) == (failing != "nothing"), found.stderr
