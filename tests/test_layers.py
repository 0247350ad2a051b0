"""The scientific packages without configuration and command line."""

import subprocess
import sys

import pytest

SCRIPT = """
import importlib, pkgutil, sys
for name in ("data", "distributions", "model", "objective"):
    package = importlib.import_module(f"vae_exp.{name}")
    for module in pkgutil.iter_modules(package.__path__, f"vae_exp.{name}."):
        importlib.import_module(module.name)
others = ("hydra", "omegaconf", "vae_exp.configuration", "vae_exp.engine", "vae_exp.runs", "vae_exp.sweep")
loaded = sorted(name for name in sys.modules if name in others)
assert not loaded, loaded
"""


@pytest.mark.slow
def test_data_models_and_losses_can_be_imported_without_hydra():
    arguments = [sys.executable, "-c", SCRIPT]
    finished = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == 0, finished.stderr
