from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from vae_exp.data.images import ImageSet
from vae_exp.engine.determinism import generator
from vae_exp.engine.evaluating import run_evaluator, save_figures
from vae_exp.model.decoders import MLPDecoder
from vae_exp.model.encoders import MLPEncoder
from vae_exp.model.priors import StandardNormalPrior
from vae_exp.model.vae import VAE

IMAGES = ImageSet(torch.zeros(2, 1, 2, 2), None, 1)


class _Yields:
    """An evaluator that yields these, and remembers how it was called."""

    every = 0

    def __init__(self, **results: Any) -> None:
        self._results = results
        self.seen: dict[str, Any] = {}

    def run(self, vae: VAE, images: ImageSet, generator: torch.Generator) -> Iterator[tuple[str, Any]]:
        draw = torch.rand((), generator=generator).item()
        self.seen = {
            "training": vae.training,
            "gradients": torch.is_grad_enabled(),
            "images": images,
            "draw": draw,
        }
        yield from self._results.items()


@pytest.fixture
def vae() -> VAE:
    torch.manual_seed(0)
    return VAE(
        MLPEncoder([1, 2, 2], 2, [3], "tanh"), MLPDecoder([1, 2, 2], 2, [3], "tanh"), StandardNormalPrior(2)
    )


def test_numbers_and_figures_are_told_apart(vae: VAE):
    figure = Figure()
    numbers, figures = run_evaluator(_Yields(elbo=-1.5, count=3, samples=figure), vae, IMAGES, seed=0)
    assert numbers == {"elbo": -1.5, "count": 3.0}
    assert figures == {"samples": figure}


@pytest.mark.parametrize("value", [torch.tensor(2.0), np.float32(2.0), np.int64(2)], ids=repr)
def test_numbers_of_torch_and_numpy_become_floats(vae: VAE, value: Any):
    [number] = run_evaluator(_Yields(score=value), vae, IMAGES, seed=0)[0].values()
    assert (type(number), number) == (float, 2.0)


def test_the_model_is_at_evaluation_and_builds_no_graph(vae: VAE):
    evaluator = _Yields()
    run_evaluator(evaluator, vae.train(), IMAGES, seed=0)
    assert (evaluator.seen["training"], evaluator.seen["gradients"]) == (False, False)
    assert evaluator.seen["images"] is IMAGES


def test_the_noise_is_that_of_evaluation_and_follows_from_the_seed(vae: VAE):
    draws = []
    for seed in (3, 3, 4):
        evaluator = _Yields()
        run_evaluator(evaluator, vae, IMAGES, seed)
        draws.append(evaluator.seen["draw"])
    expected = torch.rand((), generator=generator(3, "evaluation", torch.device("cpu"))).item()
    assert draws[0] == draws[1] == expected
    assert draws[2] != expected


def test_figures_are_written_by_name(tmp_path: Path):
    paths = save_figures(
        {"samples": Figure(figsize=(1, 1)), "latents": Figure(figsize=(1, 1))}, tmp_path / "figures"
    )
    assert paths == {name: tmp_path / "figures" / f"{name}.png" for name in ("samples", "latents")}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths.values())


def test_a_figure_that_cannot_be_drawn_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    [path] = save_figures({"samples": Figure(figsize=(1, 1))}, tmp_path).values()
    before = path.read_bytes()

    def fail(self: Figure, file: Any, **settings: Any) -> None:
        file.write(b"half")
        raise RuntimeError("no font")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(RuntimeError, match="no font"):
        save_figures({"samples": Figure()}, tmp_path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
