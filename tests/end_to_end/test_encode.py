"""`python -m vae_exp.encode`, end to end."""

import re
import resource
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from vae_exp import load_run
from vae_exp.data.pixel_file import FilePixels
from vae_exp.storage.atomic_io import read_json


@pytest.fixture
def new_images(tmp_path: Path) -> Path:
    digits = load_digits()
    path = tmp_path / "new.npz"
    np.savez(path, images=(digits.images[:30] / 16).astype(np.float32), labels=digits.target[:30])
    return path


def test_scores_of_a_split_average_to_those_of_evaluate(command, copied_run: Path):
    done = command(
        "encode", f"run={copied_run}", "num_importance_samples=20", "sort=nll", "odd=[9]", "figure=true"
    )
    assert done.code == 0, done.err
    printed = dict(re.findall(r"by +(\S+): AUROC (\S+),", done.out))
    assert (copied_run / "codes" / "test-best.png").exists()
    command("evaluate", f"run={copied_run}", "evaluator.nll.num_importance_samples=20")
    metrics = read_json(copied_run / "evaluation" / "test-best.json")["metrics"]
    with np.load(copied_run / "codes" / "test-best.npz") as table:
        for name in ("elbo", "rate", "distortion", "nll"):
            assert table[name].mean(dtype=float) == pytest.approx(metrics[f"test/{name}"], rel=1e-5)
        assert (np.diff(table["nll"]) <= 0).all()
        assert printed.keys() == {"-elbo", "nll"}
        for name, surprise in (("-elbo", -table["elbo"]), ("nll", table["nll"])):
            assert float(printed[name]) == pytest.approx(roc_auc_score(table["label"] == 9, surprise), abs=1e-4)
        assert sorted(table["index"]) == list(range(360))
        target = load_digits().target[-360:]
        np.testing.assert_array_equal(table["label"], target[table["index"]])


@pytest.mark.parametrize("score", ["elbo", "nll"])
def test_a_quantile_is_the_share_of_validation_images_that_are_at_least_as_likely(
    command, copied_run: Path, score: str
):
    words = (f"run={copied_run}", "num_importance_samples=20", f"sort={score}")
    for split in ("test", "val"):
        done = command("encode", *words, f"split={split}")
        assert done.code == 0, done.err
    codes, sign = copied_run / "codes", 1 if score == "elbo" else -1
    with np.load(codes / "test-best.npz") as test, np.load(codes / "val-best.npz") as val:
        reference = sign * val[score]
        shares = [np.mean(reference >= one) for one in sign * test[score]]
        np.testing.assert_allclose(test[f"{score}_quantile"], shares)
        assert test[f"{score}_quantile"][0] == max(shares)  # the least likely image comes first


@pytest.mark.slow
def test_new_images_are_encoded_as_the_run_encodes_its_own(
    command, copied_run: Path, new_images: Path, tmp_path: Path
):
    assert command("encode", f"run={copied_run}", f"data.path={new_images}", "output=one.csv").code == 0
    arguments = ("data=arrays", f"data.path={new_images}", "output=two.npz")
    assert command("encode", str(copied_run), *arguments).code == 0
    rows = np.genfromtxt(tmp_path / "one.csv", delimiter=",", names=True)
    assert len(rows) == 30
    with np.load(tmp_path / "two.npz") as table:
        np.testing.assert_allclose(rows["elbo"], table["elbo"], rtol=1e-6)
    refused = command("encode", str(copied_run), *arguments)
    assert "two.npz exists; overwrite=true replaces it" in refused.err
    assert command("encode", str(copied_run), *arguments, "overwrite=true").code == 0


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["output=codes.txt"], "codes.txt must end in .npz, .parquet or .csv"),
        (["sort=nll"], "sort=nll needs the nll of each image: num_importance_samples=500"),
        (["sort=rate"], "sort=rate must be one of elbo, nll"),
        (["odd=[77]"], "odd=[77] are the labels of 0 of 360 images"),
        (["data.path=wide.npz"], "has images of [1, 8, 9], and the model takes [1, 8, 8]"),
        (["data.path=none.npz"], "none.npz does not exist"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    command, copied_run: Path, tmp_path: Path, arguments: list[str], message: str
):
    np.savez(tmp_path / "wide.npz", images=np.zeros((4, 8, 9), np.uint8))
    refused = command("encode", f"run={copied_run}", *arguments)
    assert refused.code == 1
    assert message in refused.err
    assert not (copied_run / "codes").exists()


@pytest.mark.slow
def test_a_disk_that_fills_is_named_and_leaves_nothing(command, copied_run: Path, tmp_path: Path):
    before, files = resource.getrlimit(resource.RLIMIT_FSIZE), set(tmp_path.iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        encoded = command("encode", f"run={copied_run}", "output=codes.csv")
        generated = command("generate", f"run={copied_run}", "samples=1000", "output=samples.npz")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    for finished, name in ((encoded, "codes.csv"), (generated, "samples.npz")):
        assert finished.code == 1
        assert f"output={tmp_path / name} cannot be written: File too large; free" in finished.err
        assert "Error executing job" not in finished.err
    assert set(tmp_path.iterdir()) == files


def test_a_folder_of_images_is_encoded_with_the_names_of_its_files(command, copied_run: Path, tmp_path: Path):
    digits = load_digits()
    for index in range(6):
        folder = tmp_path / "photos" / f"digit {digits.target[index]}"
        folder.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray((digits.images[index] * 255 / 16).astype(np.uint8)).resize((16, 16))
        picture.save(folder / f"{index}.png")
    done = command("encode", str(copied_run), "data.path=photos", "output=one.csv", "sort=elbo")
    assert done.code == 0, done.err
    assert any(line.endswith("/0.png") for line in done.out.splitlines())
    done = command("encode", str(copied_run), "data=folder", "data.path=photos", "data.size=8", "output=two.npz")
    assert done.code == 0, done.err
    with np.load(tmp_path / "two.npz") as table:
        files = [f"digit {digits.target[index]}/{index}.png" for index in range(6)]
        assert sorted(table["file"]) == sorted(files)
        assert all(table["class"] == [name.split("/")[0] for name in table["file"]])
        rows = (tmp_path / "one.csv").read_text().splitlines()
        assert rows[0].startswith("index,file,label,class,mean_0")
        assert rows[1].split(",")[1] == table["file"][table["elbo"].argmin()]


def test_the_images_are_not_replaced(command, copied_run: Path, new_images: Path, tmp_path: Path):
    before = new_images.read_bytes()
    (tmp_path / "link.npz").symlink_to(new_images)
    for output in ("new.npz", "link.npz"):
        words = (f"data.path={new_images}", f"output={output}", "overwrite=true")
        refused = command("encode", f"run={copied_run}", *words)
        assert refused.code == 1
        assert f"{output} would replace images of data.path={new_images}; write elsewhere" in refused.err
    assert new_images.read_bytes() == before


def test_a_group_of_data_gives_the_output_its_name(command, copied_run: Path):
    done = command("encode", str(copied_run), "data=digits")
    assert done.code == 0, done.err
    assert (copied_run / "codes" / "digits-best.npz").is_file()


@pytest.mark.slow
def test_pixels_of_a_file_stay_there(command, tmp_path: Path):
    np.save(tmp_path / "mine.npy", np.random.default_rng(0).integers(256, size=(40, 8, 8)).astype(np.uint8))
    words = ("data=arrays", "data.path=mine.npy", "trainer.epochs=1", "trainer.batch_size=10", "tracker=none")
    assert command("train", *words, "evaluator=[]", "hydra.run.dir=run").code == 0
    assert isinstance(load_run(tmp_path / "run").images("train").pixels, FilePixels)
    done = command("encode", "run", "data.path=mine.npy", "output=codes.npz")
    assert done.code == 0, done.err
    with np.load(tmp_path / "codes.npz") as table:
        assert len(table["elbo"]) == 40
