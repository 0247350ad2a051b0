import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread
from PIL import Image

from tests.builders import CPU, RecordingEvaluator, grey_images, small_vae
from vae_exp.data.images import ImageSet
from vae_exp.engine.evaluator_loop import EvaluatorLoop, run_evaluator, save_figures
from vae_exp.engine.seeding import make_generator
from vae_exp.engine.shutdown import GracefulShutdown
from vae_exp.errors import Interrupted, MemoryExhaustedError, UserError
from vae_exp.model.vae import VAE

IMAGES = grey_images(2)


def test_numbers_figures_and_lists_are_separated():
    figure, image = Figure(), Image.new("L", (2, 2))
    results = {
        "elbo": -1.5,
        "count": 3,
        "samples": figure,
        "grid": image,
        "rates": [1, torch.tensor(2.0)],
        "numpy": np.int64(2),
    }
    output = run_evaluator("mine", RecordingEvaluator(results=results), small_vae(), IMAGES, seed=0)
    assert output.numbers == {"elbo": -1.5, "count": 3.0, "numpy": 2.0}
    assert {type(number) for number in output.numbers.values()} == {float}
    assert output.figures == {"samples": figure, "grid": image}
    assert output.lists == {"rates": [1.0, 2.0]}


class Looks(RecordingEvaluator):
    def run(self, vae: VAE, images: ImageSet, generator: torch.Generator) -> Iterator[tuple[str, Any]]:
        yield from super().run(vae, images, generator)
        yield "training", vae.training
        yield "gradients", torch.is_grad_enabled()
        yield "same", images is IMAGES


def test_the_model_is_at_evaluation_and_the_noise_follows_from_the_seed():
    evaluator = Looks()
    for seed in (3, 3, 4):
        numbers = run_evaluator("mine", evaluator, small_vae().train(), IMAGES, seed).numbers
        assert numbers == {"probe": 1.0, "training": False, "gradients": False, "same": True}
    expected = torch.rand((), generator=make_generator(3, "evaluation", CPU)).item()
    assert evaluator.draws[0] == evaluator.draws[1] == expected
    assert evaluator.draws[2] != expected


class _Returns:
    """An evaluator that returns an object, or raises it."""

    def __init__(self, result: Any) -> None:
        self._result = result

    def run(self, vae: VAE, images: ImageSet, generator: torch.Generator) -> Any:
        if isinstance(self._result, Exception):
            raise self._result
        return self._result


class _OtherSignature(_Returns):
    """An evaluator whose `run` takes other arguments."""

    def run(self, vae: VAE) -> list[Any]:
        return []


@pytest.mark.parametrize(
    ("evaluator", "reason"),
    [
        (_Returns(IndexError("out of range")), "fails: IndexError: out of range"),
        (_OtherSignature([]), r"fails: TypeError: .*takes 2 positional arguments but 4 were given"),
        (_Returns(None), "fails: TypeError: 'NoneType' object is not iterable"),
        (_Returns([1.0]), r"yields 1\.0; expected pairs of a name and a value"),
        (_Returns(["ab"]), "yields 'ab'; expected pairs of a name and a value"),
        (_Returns([(1, 2)]), r"yields \(1, 2\); expected pairs of a name and a value"),
        (_Returns([("score", "high")]), "yields score='high'; expected a number, a list of them, or a"),
        (
            _Returns([("score", torch.zeros(3))]),
            r"yields score=tensor\(.*; expected a number, a list of them, or a",
        ),
        (_Returns([("scores", [1.0, "high"])]), "yields scores='high'; expected a number, a list of them, or a"),
        (_Returns([("../../loose", Figure())]), r"yields a figure called '\.\./\.\./loose'"),
        (_Returns([("a\\b", Figure())]), "yields a figure called 'a"),
    ],
)
def test_a_faulty_evaluator_is_named_with_its_key_and_class(evaluator: Any, reason: str):
    prefix = rf"evaluator\.mine \(.*test_evaluator_loop\.{type(evaluator).__name__}\) "
    with pytest.raises(UserError, match=prefix + reason):
        run_evaluator("mine", evaluator, small_vae(), IMAGES, seed=0)


@pytest.mark.parametrize("error", [UserError("a reason"), Interrupted(2)])
def test_errors_of_the_package_pass_through(error: Exception):
    with pytest.raises(type(error)) as caught:
        run_evaluator("mine", _Returns(error), small_vae(), IMAGES, seed=0)
    assert caught.value is error


def test_an_evaluator_without_memory_is_named_and_not_the_batch_size():
    with pytest.raises(
        MemoryExhaustedError, match=r"ran out of memory.* in evaluator\.mine; reduce num_images"
    ) as caught:
        run_evaluator("mine", _Returns(MemoryError()), small_vae(), IMAGES, seed=0)
    assert "trainer.batch_size" not in str(caught.value)


def make_loop(tmp_path: Path, **evaluators: RecordingEvaluator) -> EvaluatorLoop:
    none = IMAGES.take(0)
    return EvaluatorLoop(evaluators, small_vae(), train=IMAGES, val=none, seed=0, figures=tmp_path, trackers=[])


def test_metrics_that_are_not_finite_are_warned_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    bad = RecordingEvaluator(results={"a": float("nan"), "b": 1.0, "c": float("inf")})
    loop = make_loop(tmp_path, mine=bad, other=RecordingEvaluator(results={"a": 1.0}))
    with caplog.at_level(logging.WARNING), GracefulShutdown() as shutdown:
        for _ in range(3):
            loop.run(["mine", "other"], 1, shutdown, 1)
    assert [record.getMessage() for record in caplog.records] == [
        "evaluator.mine.a is not finite: nan.",
        "evaluator.mine.c is not finite: inf.",
    ]


def test_without_held_out_images_those_of_training_are_scored_as_drawn_once(tmp_path: Path):
    train, seen = replace(grey_images(5), binarization_seed=3), RecordingEvaluator()
    options = {"train": train, "val": train.take(0), "seed": 0, "figures": tmp_path, "trackers": []}
    with GracefulShutdown() as shutdown:
        EvaluatorLoop({"mine": seen}, small_vae(), **options).run(["mine"], 1, shutdown, 1)
    found = seen.images[0].batch().images
    assert torch.equal(found, train.with_fixed_binarization().batch().images)
    assert set(found.unique().tolist()) == {0.0, 1.0}


def test_evaluators_of_the_end_are_announced(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    loop = make_loop(tmp_path, end=RecordingEvaluator(None, {"a": 1.0}), often=RecordingEvaluator(1, {"b": 2.0}))
    assert (loop.due_at_epoch(1), loop.due_at_end()) == (["often"], ["end"])
    with caplog.at_level(logging.INFO), GracefulShutdown() as shutdown:
        assert loop.run(["end", "often"], 1, shutdown, 1) == {"train/a": 1.0, "train/b": 2.0}
    assert [record.getMessage() for record in caplog.records] == ["Evaluating end …"]


def test_a_figure_says_of_which_images_and_weights_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    figure, texts = Figure(figsize=(1, 1)), []
    loop = make_loop(tmp_path, mine=RecordingEvaluator(None, {"samples": figure}))
    draw = Figure.savefig

    def savefig(self: Figure, *arguments: Any, **options: Any) -> None:
        texts.extend(text.get_text() for text in self.texts)
        draw(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", savefig)
    with GracefulShutdown() as shutdown:
        loop.run(["mine"], 1, shutdown, 3, "best")
    assert texts == ["train images, epoch 3 (best)"]


def test_figures_are_written_by_name_and_one_that_cannot_be_drawn_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    figures = {"samples": Image.new("L", (100, 100)), "latents": Figure(figsize=(1, 1))}
    paths = save_figures(figures, tmp_path / "figures", "val images, epoch 3 (best)")
    assert paths == {name: tmp_path / "figures" / f"{name}.png" for name in figures}
    assert all(imread(path).shape[0] > 100 for path in paths.values())  # an inch, and the line below
    before = {path: path.read_bytes() for path in paths.values()}
    assert all(content.startswith(b"\x89PNG") for content in before.values())

    def fail(self: Figure, file: Any, **settings: Any) -> None:
        file.write(b"half")
        raise RuntimeError("no font")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(RuntimeError, match="no font"):
        save_figures({"samples": Figure()}, tmp_path / "figures", "val images")
    assert {path: path.read_bytes() for path in (tmp_path / "figures").iterdir()} == before
