"""New images are read as the run's own were."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.builders import grey_images
from vae_exp import TrainedRun, load_run
from vae_exp.configuration.schema import NewDataConfig
from vae_exp.data.folder import FolderSource
from vae_exp.errors import UserError
from vae_exp.runs.new_images import open_new_images

ARRAYS, FOLDER = "vae_exp.data.npz.NPZSource", "vae_exp.data.folder.FolderSource"


@pytest.fixture
def run(digits_run: Path) -> TrainedRun:
    return load_run(digits_run)


def trained_on(run: TrainedRun, source: dict, **fingerprint) -> TrainedRun:
    """The run as if its data had come from this source."""
    config = {**run.config, "data": {**run.config["data"], "source": source}}
    return replace(run, config=config, fingerprints={"train": fingerprint} if fingerprint else {})


def opened(run: TrainedRun, path: Path) -> torch.Tensor:
    images = open_new_images(NewDataConfig(path=str(path), root=str(path.parent / "data")), run)
    return images.batch().images


def test_arrays_have_the_range_of_the_training_images(run: TrainedRun, tmp_path: Path):
    levels = np.random.default_rng(0).integers(2, 9, size=(5, 8, 8))
    expected = torch.from_numpy(levels)[:, None].float()
    np.savez(tmp_path / "levels.npz", images=levels.astype(np.uint8))
    np.savez(tmp_path / "numbers.npz", images=levels)
    sixteen = trained_on(run, {"_target_": ARRAYS, "max_value": 16})
    torch.testing.assert_close(opened(sixteen, tmp_path / "levels.npz"), expected / 16)
    given = trained_on(run, {"_target_": ARRAYS, "rescale": [0, 16]})
    torch.testing.assert_close(opened(given, tmp_path / "numbers.npz"), expected / 16)
    source = {"_target_": ARRAYS, "rescale": "minmax"}
    stored = trained_on(run, source, value_range=[0.0, 32.0])
    torch.testing.assert_close(opened(stored, tmp_path / "numbers.npz"), expected / 32)
    with pytest.raises(
        UserError, match=r"data\.rescale=minmax, and its checkpoint, of an earlier version, .*give"
    ):
        opened(trained_on(run, source), tmp_path / "numbers.npz")


def test_new_images_are_binarised_as_the_run_scores_its_own(run: TrainedRun, tmp_path: Path):
    grey = np.random.default_rng(0).random((5, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "grey.npz", images=grey)
    torch.testing.assert_close(opened(run, tmp_path / "grey.npz"), torch.from_numpy(grey)[:, None])
    data = replace(run.settings.data, binarization="dynamic", binarization_seed=7)
    binary = opened(replace(run, settings=replace(run.settings, data=data)), tmp_path / "grey.npz")
    expected = replace(grey_images(5), pixels=torch.from_numpy(grey)[:, None], pixel_max=1, binarization_seed=7)
    torch.testing.assert_close(binary, expected.with_fixed_binarization().batch().images)
    assert set(binary.unique().tolist()) == {0.0, 1.0}


def test_files_are_fitted_as_those_of_the_run(run: TrainedRun, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    (tmp_path / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(256, size=(8, 16)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photos" / "wide.png")
    fitted = {}
    for fit in ("crop", "resize"):
        fitted[fit] = opened(trained_on(run, {"_target_": FOLDER, "fit": fit}), tmp_path / "photos")
        own = FolderSource(str(tmp_path / "photos"), str(tmp_path), 8, fit, channels=1)
        torch.testing.assert_close(fitted[fit], own.train().batch().images)
    assert not torch.equal(fitted["crop"], fitted["resize"])
    messages = [text for text in caplog.messages if "as the model takes them" in text]
    assert all("photos" in text and "grey of 8×8 pixels" in text for text in messages)
    assert [text.partition("ratio are ")[2] for text in messages] == [
        "cut to it in the middle.", "squeezed to it.",
    ]  # fmt: skip


def test_labels_are_those_that_the_classes_have_in_the_run(run: TrainedRun, caplog: pytest.LogCaptureFixture):
    images = replace(grey_images(4), labels=torch.tensor([0, 1, 2, 1]), classes=("b", "c", "x"))
    own = trained_on(run, {"_target_": FOLDER}, classes=["a", "b", "c"])
    relabelled = own.with_own_labels(images)
    assert relabelled.labels.tolist() == [1, 2, 3, 2]
    assert "Label 3 is x, a class that the run was not trained on" in caplog.text
    own.vae.needs_labels = True
    with pytest.raises(
        UserError, match=r"are of x, classes that the model does not know; those of run=.* a, b, c"
    ):
        own.with_own_labels(images)
    assert own.with_own_labels(replace(images, classes=("c", "b", "a"))).labels.tolist() == [2, 1, 0, 1]


def test_a_checkpoint_says_what_its_run_was_trained_on(run: TrainedRun):
    assert run.fingerprints == run.data.fingerprints
    assert run.fingerprints["val"]["count"] == 237


def test_a_split_that_has_changed_since_training_is_warned_of(copied_run, caplog):
    """The images are drawn into other splits: those that were trained on may be scored as held out."""
    run = load_run(copied_run)
    run.images("val")
    assert "images that were trained on" not in caplog.text
    config = copied_run / ".hydra" / "config.yaml"
    config.write_text(config.read_text().replace("split_seed: 0", "split_seed: 1"))
    load_run(copied_run).images("val")
    assert "split=val has other pixels, other labels: it is not that of the training" in caplog.text
    load_run(copied_run).images("test")
    assert "split=test" not in caplog.text
