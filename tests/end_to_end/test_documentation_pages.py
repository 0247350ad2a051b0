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
from tests.documentation_blocks import Block, blocks, own_command, write_files

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PAGES = (
    "docs/explanation/objectives.md",
    "docs/how_to/find_odd_images.md",
    "docs/how_to/optuna.md",
    "docs/how_to/resume.md",
    "docs/tutorial/first_vae.md",
)
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
        kept = [DOWNLOADS.sub("data=digits", word) for word in arguments if not word.startswith("trainer.epochs=")]
        if not resumes and "data=" not in text:
            kept.append("data=digits")
        if "optuna" in text:
            kept.append("hydra.sweeper.n_trials=2")
        return [*kept, f"trainer.epochs={4 if resumes else 1}"]
    if command == "evaluate" and "evaluator=" not in text:
        return [*arguments, "evaluator.nll.num_importance_samples=5"]
    return arguments


@pytest.fixture
def folder(digits_run: Path, tmp_path: Path) -> Path:
    """A folder with what pages take for granted: runs, a sweep, images."""
    shutil.copytree(digits_run, tmp_path / "outputs" / "DIR")
    shutil.copytree(digits_run, tmp_path / "their_run")
    images = (load_digits().images / 16).astype("float32")
    for name in ("new.npz", "spectra.npz"):
        np.savez(tmp_path / name, images=images[:60], labels=load_digits().target[:60])
    (tmp_path / "DIR").mkdir()
    for number in range(120):
        Image.fromarray((images[number] * 255).astype("uint8")).save(tmp_path / "DIR" / f"{number}.png")
    shutil.copy(CHECKOUT / "docs" / "wandb_sweep.yaml", tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run(page, folder, command: Callable[..., Finished], monkeypatch):
    write_files(page, folder)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    names: dict[str, object] = {}
    for block in filter(is_executed, blocks(page)):
        if block.kind == "python":
            exec(compile(block.text, f"{page}:{block.line}", "exec"), names)
        for line in block.commands if block.kind == "commands" else []:
            own = own_command(line)
            if own is None or (own[0] == "dashboard" and "--export" not in own[1]):
                continue  # another program, or a server that runs until it is stopped
            with monkeypatch.context() as patch:
                for name, value in re.findall(r"(\w+)=(\S+) (?=.*python )", line):
                    patch.setitem(os.environ, name, value)
                finished = command(own[0], *shorten(*own))
            assert finished.code == 0, f"{page}:{block.line}: {line}\n{finished.out}\n{finished.err}"
