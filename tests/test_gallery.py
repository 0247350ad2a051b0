"""docs/gallery.py: its settings compose, and its page shows the runs of the commands that stand on it."""

import re
import shlex
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.composing import composed
from tests.conftest import CHECKOUT
from tests.documentation_blocks import docs_script
from vae_exp.configuration.parsing import parse_config
from vae_exp.configuration.schema import TrainConfig

TABLE = yaml.safe_load((CHECKOUT / "docs" / "gallery.yaml").read_text())
ROWS = [
    (experiment, f"{name}: {overrides}")
    for experiment, sections in TABLE.items()
    for rows in sections.values()
    for name, overrides in rows.items()
]


@pytest.fixture
def gallery() -> ModuleType:
    return docs_script("gallery")


@pytest.mark.quick(2)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]}-{row[1].partition(':')[0]}")
def test_every_setting_composes(row):
    experiment, line = row
    overrides = line.partition(": ")[2].split()
    colour = ["data.image_shape=[3,32,32]"] if experiment == "gallery_colour" else []
    parse_config(composed("train", f"experiment={experiment}", *overrides, *colour), TrainConfig)


def test_every_model_objective_prior_and_likelihood_has_a_row():
    words = {word for _, line in ROWS for word in line.partition(": ")[2].split()}
    groups = {"model": {"mlp", "two_layer"}, "loss": {"elbo"}, "model/prior": {"standard_normal"}}
    for group, base in (groups | {"model/likelihood": {"bernoulli"}}).items():
        options = {path.stem for path in (CHECKOUT / "conf" / group).glob("[!_]*.yaml")} - base
        assert len(options) > 2
        missing = {option for option in options if f"{group}={option}" not in words}
        assert missing - {"discretized_logistic"} == set(), group


def test_the_page_has_the_command_and_the_picture_of_every_setting(gallery):
    page = (CHECKOUT / "docs" / "gallery.md").read_text()
    settings = gallery.read_settings()
    assert re.findall(r"`(python -m vae_exp\.train [^`]*)` \|", page) == [row.command for row in settings]
    pictures = re.findall(r"!\[\w+\]\((gallery/[\w-]+\.webp)\)", page)
    assert len(pictures) == len(set(pictures)) == len(settings)
    assert all((CHECKOUT / "docs" / picture).stat().st_size <= 40_000 for picture in pictures)


def test_held_out_patches_share_no_pixel_with_the_training_patches(gallery, tmp_path):
    gallery.write_patches(tmp_path / "data" / "patches.npz")
    with np.load(tmp_path / "data" / "patches.npz") as arrays:
        assert arrays["images"].shape == (5300, 32, 32, 3)
        assert arrays["val_images"].shape == (156, 32, 32, 3)
        train = {patch.tobytes() for patch in arrays["images"]}
        assert not any(patch.tobytes() in train for patch in arrays["val_images"])


@pytest.mark.slow
def test_settings_are_trained_once_and_their_runs_stand_on_the_page(gallery, tmp_path: Path, monkeypatch):
    table = tmp_path / "settings.yaml"
    short = "data=digits data.validation_size=360 trainer.epochs=1 model.hidden_dims=[8]"
    codes = "model=fsq model.latent_dim=null evaluator=[elbo,codes] ~evaluator.nll"
    rows = {
        "plane": f"{short} model.latent_dim=2",
        "codes": f"{short} {codes}",
        "failed": f"{short} optimizer.lr=1000000000.0",
        "missing": "loss=iwae",
    }
    table.write_text(yaml.safe_dump({"gallery": {"Some": rows}}, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT / "src"))
    settings = gallery.read_settings(table)
    assert [shlex.split(row.command)[3] for row in settings] == ["experiment=gallery"] * 4
    gallery.train(settings[:3], tmp_path / "runs", slots=1)
    results = sorted((tmp_path / "runs" / "gallery").glob("*/result.json"))
    assert len(results) == 3
    written = [path.stat().st_mtime_ns for path in results]
    gallery.train(settings[:1], tmp_path / "runs", slots=1)
    assert [path.stat().st_mtime_ns for path in results] == written
    gallery.draw_pictures(settings, tmp_path / "runs", tmp_path / "gallery")
    gallery.write_page(settings, tmp_path / "runs", tmp_path / "gallery.md")
    plane, codes, failed, missing = re.findall(r"^\| \*\*.*$", (tmp_path / "gallery.md").read_text(), re.MULTILINE)
    assert re.search(r"−ELBO.\d+\.\d<br>NLL.\d+\.\d.*\d.active", plane)
    assert re.search(r"−ELBO.\d+\.\d<br>\d\.\d\d.bits.*\d+.codes", codes)
    assert "diverged" in failed or "NaN" in failed
    assert missing.endswith("| not started |")
    for name in ("plane", "codes"):
        with Image.open(tmp_path / "gallery" / f"gallery-{name}.webp") as picture:
            assert picture.width > 300
            assert len(set(np.asarray(picture).mean(axis=2).astype(int).ravel())) > 50
