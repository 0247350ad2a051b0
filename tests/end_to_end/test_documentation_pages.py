"""The blocks of pages, executed in their order in one folder, shortened: digits, one epoch, few samples."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tests.conftest import CHECKOUT, Finished
from tests.documentation_blocks import Block, blocks, own_command, pages, write_files

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
CONTINUES = {  # in the same folder
    "docs/how_to/dashboard.md": "docs/how_to/sweeps.md",
    "docs/tutorial/looking_at_runs.md": "docs/tutorial/first_sweep.md",
}
DOWNLOADS = re.compile(r"data=(fashion_mnist|mnist|cifar10|svhn)\b")


def is_executed(block: Block) -> bool:
    """Whether a block has something that runs here: it is not exempt, and Python or a command of ours."""
    return not block.exempt and (
        block.kind == "python" or (block.kind == "commands" and any(map(own_command, block.commands)))
    )


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


def is_shown(line: str) -> bool:
    """Whether a command opens a server, which runs until it is stopped."""
    return ("vae_exp.dashboard" in line and "--export" not in line) or (
        "vae_exp.explore" in line and "output=" not in line
    )


@pytest.fixture
def folder(digits_run: Path, tmp_path: Path) -> Path:
    """A folder with what pages take for granted: runs, a sweep, images."""
    shutil.copytree(digits_run, tmp_path / "outputs" / "DIR")
    shutil.copytree(digits_run, tmp_path / "their_run")
    images = (load_digits().images / 16).astype("float32")
    for name, count in {"new.npz": 60, "spectra.npz": 300}.items():
        np.savez(tmp_path / name, images=images[:count], labels=load_digits().target[:count])
    for number in range(300):
        target = tmp_path / "DIR" / ("test" if number < 60 else "train") / f"{number}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((images[number] * 255).astype("uint8")).save(target)
    shutil.copy(CHECKOUT / "docs" / "wandb_sweep.yaml", tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", [page for page in pages() if any(map(is_executed, blocks(page)))])
def test_the_blocks_of_a_page_run(page, folder, command: Callable[..., Finished], monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    for name in filter(None, (CONTINUES.get(page), page)):
        write_files(name, folder)
        run_blocks(name, command, monkeypatch)


def run_blocks(page: str, command: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch) -> None:
    """Execute the blocks of a page, Python ones in one namespace."""
    names: dict[str, object] = {}
    for block in filter(is_executed, blocks(page)):
        if block.kind == "python":
            exec(compile(block.text, f"{page}:{block.line}", "exec"), names)
        for line in block.commands if block.kind == "commands" else []:
            own = own_command(line)
            if own is None or is_shown(line):
                continue
            with monkeypatch.context() as patch:
                for name, value in re.findall(r"(\w+)=(\S+) (?=.*python )", line):
                    patch.setitem(os.environ, name, value)
                finished = command(own[0], *shorten(*own))
            assert finished.code == 0, f"{page}:{block.line}: {line}\n{finished.out}\n{finished.err}"
