import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from vae_exp.data.images import ImageSet
from vae_exp.engine.evaluator_loop import EvaluatorLoop, run_evaluator, save_figures
from vae_exp.engine.seeding import make_generator
from vae_exp.engine.shutdown import GracefulShutdown
from vae_exp.errors import Interrupted, MemoryExhaustedError, UserError
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
    yields = _Yields(elbo=-1.5, count=3, samples=figure, rates=[1, torch.tensor(2.0)])
    numbers, figures, lists = run_evaluator("mine", yields, vae, IMAGES, seed=0)
    assert numbers == {"elbo": -1.5, "count": 3.0}
    assert figures == {"samples": figure}
    assert lists == {"rates": [1.0, 2.0]}


@pytest.mark.parametrize("value", [torch.tensor(2.0), np.float32(2.0), np.int64(2)], ids=repr)
def test_numbers_of_torch_and_numpy_become_floats(vae: VAE, value: Any):
    [number] = run_evaluator("mine", _Yields(score=value), vae, IMAGES, seed=0)[0].values()
    assert (type(number), number) == (float, 2.0)


def test_the_model_is_at_evaluation_and_builds_no_graph(vae: VAE):
    evaluator = _Yields()
    run_evaluator("mine", evaluator, vae.train(), IMAGES, seed=0)
    assert (evaluator.seen["training"], evaluator.seen["gradients"]) == (False, False)
    assert evaluator.seen["images"] is IMAGES


def test_the_noise_is_that_of_evaluation_and_follows_from_the_seed(vae: VAE):
    draws = []
    for seed in (3, 3, 4):
        evaluator = _Yields()
        run_evaluator("mine", evaluator, vae, IMAGES, seed)
        draws.append(evaluator.seen["draw"])
    expected = torch.rand((), generator=make_generator(3, "evaluation", torch.device("cpu"))).item()
    assert draws[0] == draws[1] == expected
    assert draws[2] != expected


class _Fails(_Yields):
    """An evaluator that raises."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def run(self, vae: VAE, images: ImageSet, generator: torch.Generator) -> Iterator[tuple[str, Any]]:
        yield "elbo", 1.0
        raise self.error


class _OtherSignature(_Yields):
    """An evaluator whose `run` takes something else."""

    def run(self, vae: VAE) -> list[Any]:
        return []


class _Returns(_Yields):
    """An evaluator that returns this instead of pairs."""

    def __init__(self, results: Any) -> None:
        self._results = results

    def run(self, vae: VAE, images: ImageSet, generator: torch.Generator) -> Any:
        return self._results


@pytest.mark.parametrize(
    ("evaluator", "told"),
    [
        (_Fails(IndexError("out of range")), "fails: IndexError: out of range"),
        (_OtherSignature(), r"fails: TypeError: .*takes 2 positional arguments but 4 were given"),
        (_Returns(None), "fails: TypeError: 'NoneType' object is not iterable"),
        (_Returns([1.0]), r"yields 1\.0; expected pairs of a name and a value"),
        (_Returns(["ab"]), "yields 'ab'; expected pairs of a name and a value"),
        (_Returns([(1, 2)]), r"yields \(1, 2\); expected pairs of a name and a value"),
        (_Returns([("score", "high")]), "yields score='high'; expected a number, a list of them, or a"),
        (
            _Returns([("score", torch.zeros(3))]),
            r"yields score=tensor\(.*; expected a number, a list of them, or a",
        ),
        (
            _Returns([("scores", [1.0, "high"])]),
            "yields scores='high'; expected a number, a list of them, or a",
        ),
        (
            _Returns([("../../loose", Figure())]),
            r"yields a figure called '\.\./\.\./loose'",
        ),
        (_Returns([("a/b", Figure())]), "yields a figure called 'a/b'"),
        (_Returns([("a\\b", Figure())]), "yields a figure called 'a"),
    ],
)
def test_what_an_evaluator_does_wrong_is_told_with_its_key_and_class(vae: VAE, evaluator: Any, told: str):
    prefix = rf"evaluator\.mine \(.*test_evaluator_loop\.{type(evaluator).__name__}\) "
    with pytest.raises(UserError, match=prefix + told):
        run_evaluator("mine", evaluator, vae, IMAGES, seed=0)


@pytest.mark.parametrize("error", [UserError("mend it"), Interrupted(2)])
def test_errors_of_ours_pass_through_an_evaluator(vae: VAE, error: Exception):
    with pytest.raises(type(error)) as caught:
        run_evaluator("mine", _Fails(error), vae, IMAGES, seed=0)
    assert caught.value is error


def test_an_evaluator_without_memory_is_named_and_not_the_batch_size(vae: VAE):
    with pytest.raises(MemoryExhaustedError, match=r"ran out of memory.* in evaluator\.mine; reduce") as caught:
        run_evaluator("mine", _Fails(MemoryError()), vae, IMAGES, seed=0)
    assert "trainer.batch_size" not in str(caught.value)


def evaluations(tmp_path: Path, vae: VAE, **evaluators: Any) -> EvaluatorLoop:
    return EvaluatorLoop(
        evaluators, vae, train=IMAGES, val=IMAGES.first(0), seed=0, figures=tmp_path / "figures", trackers=[]
    )


def test_numbers_that_are_none_are_told_once(vae: VAE, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    each = evaluations(tmp_path, vae, mine=_Yields(a=float("nan"), b=1.0, c=float("inf")), other=_Yields(a=1.0))
    with caplog.at_level(logging.WARNING), GracefulShutdown() as guard:
        for _ in range(3):
            each.run(["mine", "other"], 1, guard)
    assert sorted(record.getMessage() for record in caplog.records) == [
        "evaluator.mine.a is not finite: nan.",
        "evaluator.mine.c is not finite: inf.",
    ]


def test_evaluators_that_wait_for_the_end_are_announced(
    vae: VAE, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    often = _Yields(b=2.0)
    often.every = 1
    each = evaluations(tmp_path, vae, mine=_Yields(a=1.0), often=often)
    with caplog.at_level(logging.INFO), GracefulShutdown() as guard:
        assert each.run(["mine", "often"], 1, guard) == {"train/a": 1.0, "train/b": 2.0}
    assert [record.getMessage() for record in caplog.records] == ["Evaluating mine …"]


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
