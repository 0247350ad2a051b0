"""docs/how_to/own_parts.md, done exactly as it says: its files are written, its commands run, in its order."""

import re
import shlex
import sys
from collections.abc import Iterator
from math import log
from pathlib import Path

import pytest
import torch

from tests.builders import SHAPE, bernoulli_vae
from tests.conftest import CHECKOUT
from tests.readers import read_result

PAGE = (CHECKOUT / "docs" / "how_to" / "own_parts.md").read_text()
SECTIONS = ("An encoder", "A likelihood", "A loss", "A data set", "An evaluator")


def files(text: str) -> dict[str, str]:
    """The files that the page shows, by their paths."""
    return dict(
        re.findall(r"^`([\w/]+\.(?:py|yaml))`\n\n```(?:python|yaml)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    )


def commands(text: str) -> list[list[str]]:
    return [shlex.split(line) for line in re.findall(r"^    (python -m .*)$", text, re.MULTILINE)]


def section(title: str) -> str:
    return PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in which every file of the page has been written, and from which it is imported."""
    for name, content in files(PAGE).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_package"]:
        del sys.modules[name]


def test_the_page_has_what_it_promises():
    assert set(files(PAGE)) == {
        "my_package/nets.py",
        "my_package/likelihoods.py",
        "my_package/losses.py",
        "my_package/bars.py",
        "my_package/evaluators.py",
        "my_conf/data/bars.yaml",
        "my_conf/evaluator/sharpness.yaml",
        "my_conf/experiment/mine.yaml",
    }
    assert [len(commands(section(title))) for title in SECTIONS] == [2, 1, 1, 2, 4]


@pytest.mark.quick(1)
@pytest.mark.parametrize("title", SECTIONS)
def test_a_part_of_ones_own_trains_as_the_page_says(package: Path, command, title: str):
    printed = []
    for _, _, module, *arguments in commands(section(title)):
        finished = command(
            module.removeprefix("vae_exp."), *arguments, *["tracker=none"] * module.endswith("train")
        )
        assert finished.code == 0, finished.err
        printed.append(finished.out)
    [run_directory, *_] = [word.partition("=")[2] for word in commands(section(title))[0] if "run.dir=" in word]
    result = read_result(package / run_directory)
    assert result["status"] == "completed"
    assert result["epochs"] == 2
    if title == "An evaluator":
        assert "test/sharpness" in printed[1]
        resumed = read_result(package / "runs" / "all")
        assert resumed["epochs"] == 3
        assert "val/sharpness" in resumed["metrics"]


def test_the_loss_of_the_page_is_the_bound_of_its_paper(package: Path):
    """Li & Turner 2016, equation 8, in a loop; at alpha = 0 the IWAE's."""
    from vae_exp.data.images import Batch
    from vae_exp.objective.importance_weighted import IWAE, log_weights

    names: dict[str, type] = {}
    exec(compile((package / "my_package" / "losses.py").read_text(), "losses", "exec"), names)
    vae, images = bernoulli_vae(2), torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(1))
    found = names["RenyiBound"](0.3, 4)(vae, Batch(images), torch.Generator().manual_seed(2)).loss
    weights = log_weights(vae, Batch(images), 4, torch.Generator().manual_seed(2))
    expected = [
        -log(sum(weights[k, n].exp().item() ** 0.7 for k in range(4)) / 4) / 0.7 for n in range(len(images))
    ]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-4)
    iwae = IWAE(4)(vae, Batch(images), torch.Generator().manual_seed(2)).loss
    torch.testing.assert_close(
        names["RenyiBound"](0.0, 4)(vae, Batch(images), torch.Generator().manual_seed(2)).loss, iwae
    )
