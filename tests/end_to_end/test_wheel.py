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


def run(*command: str, cwd: Path, **env: str) -> str:
    finished = subprocess.run(
        list(command), cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that has our wheel, and this one's packages below it."""
    folder = tmp_path_factory.mktemp("wheel")
    run(
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(folder),
        str(CHECKOUT),
        cwd=folder,
    )
    [wheel] = folder.glob("vae_exp-*.whl")
    venv.create(folder / "venv", system_site_packages=True, with_pip=False)
    python = folder / "venv" / "bin" / "python"
    packages = run(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    # A plain path: the editable install below it, which is a .pth file of its own, stays out of sight.
    (Path(packages) / "below.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--no-deps",
        "--quiet",
        str(wheel),
        cwd=folder,
    )
    return python


def test_it_trains_from_an_empty_folder(python, tmp_path):
    where = "import vae_exp, vae_exp.cli.command_line as e; print(vae_exp.__file__, e.config_dir())"
    out = run(str(python), "-c", where, cwd=tmp_path)
    assert str(CHECKOUT / "src") not in out
    assert out.split()[1].endswith("vae_exp/conf")
    out = run(str(python), "-m", "vae_exp.train", "data=digits", "trainer.epochs=2", cwd=tmp_path)
    assert "Epoch 2/2" in out
    [result] = tmp_path.glob("outputs/*/*/result.json")
    assert json.loads(result.read_text())["status"] == "completed"
    run(str(python), "-m", "vae_exp.evaluate", f"run={result.parent}", "evaluator=[elbo]", cwd=tmp_path)


def test_the_console_scripts_answer(python, tmp_path):
    for name, words in {
        "vae-train": "data=digits",
        "vae-evaluate": "run=",
        "vae-generate": "run=",
        "vae-benchmark": "rounds",
    }.items():
        assert words in run(str(python.with_name(name)), "--help", cwd=tmp_path)
