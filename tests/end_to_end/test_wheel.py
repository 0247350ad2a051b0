"""The package works where there is no checkout: built, installed elsewhere, started from an empty folder."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT


def run(*command: str, cwd: Path) -> str:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # which may name a checkout
    finished = subprocess.run(list(command), cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.fixture
def python(distributions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that has our wheel, and this one's packages below it."""
    folder = tmp_path_factory.mktemp("wheel")
    [wheel] = distributions.glob("vae_exp-*.whl")
    venv.create(folder / "venv", system_site_packages=True, with_pip=False)
    python = folder / "venv" / "bin" / "python"
    packages = run(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    # A plain path: the editable install below it, which is a .pth file of its own, stays out of sight.
    (Path(packages) / "below.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = (sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--quiet")
    run(*pip, str(wheel), cwd=folder)
    return python


@pytest.mark.slow
def test_it_trains_from_an_empty_folder(python: Path, tmp_path: Path):
    location = "import vae_exp, vae_exp.cli.command_line as e; print(vae_exp.__file__, e.config_dir())"
    out = run(str(python), "-c", location, cwd=tmp_path)
    assert str(CHECKOUT / "src") not in out
    assert out.split()[1].endswith("vae_exp/conf")
    out = run(str(python.with_name("vae-train")), "data=digits", "trainer.epochs=2", "evaluator=[]", cwd=tmp_path)
    assert "Epoch 2/2" in out
    [result] = tmp_path.glob("outputs/*/*/result.json")
    assert json.loads(result.read_text())["status"] == "completed"
    for name, words in {
        "vae-evaluate": "run=",
        "vae-encode": "run=",
        "vae-generate": "run=",
        "vae-benchmark": "rounds",
    }.items():
        assert words in run(str(python.with_name(name)), "--help", cwd=tmp_path)
