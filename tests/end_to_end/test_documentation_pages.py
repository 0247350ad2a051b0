"""The blocks of pages, executed in their order in one folder, shortened: digits, one epoch, few samples."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tests.conftest import CHECKOUT, Finished, start
from tests.documentation_blocks import blocks, how_it_runs, own_command, pages, write_files

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
CONTINUES = {  # in the same folder
    "docs/how_to/dashboard.md": "docs/how_to/sweeps.md",
    "docs/how_to/explore_the_latent_space.md": "docs/how_to/sweeps.md",
    "docs/tutorial/looking_at_runs.md": "docs/tutorial/first_sweep.md",
}
CTRL_C = 130
ADDRESS = re.compile(r"Dashboard: (http://127\.0\.0\.1:\d+/)")
DOWNLOADS = re.compile(r"data=(fashion_mnist|mnist|cifar10|svhn)\b")


def shorten(command: str, arguments: list[str]) -> list[str]:
    """The arguments of a run of seconds, on data that need no download."""
    text = " ".join(arguments)
    if command == "train" and not {"--help", "--cfg"} & set(arguments):
        resumes = "resume=" in text
        small = [DOWNLOADS.sub("data=digits", word).replace("data.size=64", "data.size=16") for word in arguments]
        kept = [word for word in small if not word.startswith("trainer.epochs=")]
        if not resumes and "data=" not in text:
            kept.append("data=digits")
        if "optuna" in text:
            kept.append("hydra.sweeper.n_trials=2")
        return [*kept, f"trainer.epochs={4 if resumes else 1}"]
    if command == "evaluate" and "evaluator=" not in text:
        return [*arguments, "evaluator.nll.num_importance_samples=5"]
    return arguments


def visit(name: str, arguments: list[str], folder: Path) -> Finished:
    """A server on a free port, whose first page is opened, and which Ctrl-C ends."""
    port = ["--port", "0"] if name == "dashboard" else ["open=false", "port=0"]
    server = start(name, *[word for word in arguments if word != "--open"], *port, cwd=folder)
    assert server.stdout is not None
    try:
        address = next(filter(None, map(ADDRESS.match, server.stdout)), None)
        if address:
            with urlopen(address[1], timeout=60) as page:
                assert page.status == 200
            server.send_signal(signal.SIGINT)
        out, err = server.communicate(timeout=60)
    finally:
        server.kill()
    return Finished(server.returncode, out, err)


def run_in_shell(line: str, folder: Path) -> Finished:
    """Another program; make takes the environment of this test for the one that it would install."""
    words = shlex.split(line)
    if words[0] == "make":
        words += ["-f", f"{CHECKOUT}/Makefile", "-o", f"{sys.prefix}/.installed", f"VENV={sys.prefix}", "ARGS="]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    return Finished(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def folder(digits_run: Path, tmp_path: Path) -> Path:
    """A folder with what pages take for granted: runs, a sweep, images."""
    for copy in ("outputs/DIR", "outputs/OTHER", "their_run"):
        shutil.copytree(digits_run, tmp_path / copy)
    images = (load_digits().images / 16).astype("float32")
    for name, count in {"new.npz": 60, "spectra.npz": 300}.items():
        np.savez(tmp_path / name, images=images[:count], labels=load_digits().target[:count])
    for number in range(300):
        target = tmp_path / "DIR" / ("test" if number < 60 else "train") / f"{number}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((images[number] * 255).astype("uint8")).save(target)
    shutil.copy(CHECKOUT / "docs" / "wandb_sweep.yaml", tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", [page for page in pages() if any(block.is_executed for block in blocks(page))])
def test_the_blocks_of_a_page_run(page, folder, command: Callable[..., Finished], monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    for name in filter(None, (CONTINUES.get(page), page)):
        write_files(name, folder)
        run_blocks(name, folder, command, monkeypatch)


def run_blocks(page: str, folder: Path, command: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch) -> None:
    """Execute the blocks of a page, Python ones in one namespace."""
    names: dict[str, object] = {}
    for block in [block for block in blocks(page) if block.is_executed]:
        if block.kind == "python":
            exec(compile(block.text, f"{page}:{block.line}", "exec"), names)
        for line in block.commands:
            way, (name, arguments) = how_it_runs(line), own_command(line) or ("", [])
            if way == "nothing":
                continue
            with monkeypatch.context() as patch:
                for variable, value in re.findall(r"(\w+)=(\S+) (?=.*python )", line):
                    patch.setitem(os.environ, variable, value)
                if way == "command":
                    finished = command(name, *shorten(name, arguments))
                else:
                    finished = visit(name, arguments, folder) if way == "server" else run_in_shell(line, folder)
            message = f"{page}:{block.line}: {line}\n{finished.out}\n{finished.err}"
            assert finished.code == (CTRL_C if way == "server" else 0), message
