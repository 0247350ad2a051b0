"""Image files, arrays and datasets of the user, through the real commands."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch.optim import Adam

from tests.builders import make_trainer
from tests.conftest import start
from tests.readers import read_metrics, read_result, without_times
from vae_exp.data.images import ImageSet
from vae_exp.data.pixel_file import open_pixels
from vae_exp.model.decoders import MLPDecoder
from vae_exp.model.encoders import MLPEncoder
from vae_exp.model.priors import StandardNormalPrior
from vae_exp.model.vae import VAE

TRAIN = (
    "tracker=none",
    "trainer.device=cpu",
    "evaluator=[]",
    "model.hidden_dims=[16]",
    "model.latent_dim=4",
    "model/likelihood=gaussian_optimal",
    "trainer.epochs=1",
)

DECODE = ("data=folder", "data.path=photos", "data.size=192", *TRAIN, "trainer.batch_size=20", "optimizer.lr=1e-6")


def patches(count: int, size: int) -> np.ndarray:
    """Square parts of scikit-learn's two photographs, in turn: [count, size, size, 3]."""
    photos, places = load_sample_images().images, np.random.default_rng(0)
    cuts = np.empty((count, size, size, 3), dtype=np.uint8)
    for number in range(count):
        photo = photos[number % 2]
        top, left = places.integers(photo.shape[0] - size), places.integers(photo.shape[1] - size)
        cuts[number] = photo[top : top + size, left : left + size]
    return cuts


def write_folder(root: Path, pixels: np.ndarray) -> np.ndarray:
    """Write each image as a file in the folder of its class; the labels."""
    labels = np.arange(len(pixels)) % 2
    for name in ("china", "flower"):
        (root / name).mkdir(parents=True)
    for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        path = root / ("china", "flower")[label] / f"{number:05}.png"
        Image.fromarray(image).save(path, compress_level=1)
    return labels


def write_both(folder: Path, count: int, size: int) -> None:
    """The same images in the same order as `photos` and as `photos.npz`."""
    pixels = patches(count, size)
    labels = write_folder(folder / "photos", pixels)
    order = np.argsort(labels, kind="stable")
    np.savez(folder / "photos.npz", images=pixels[order], labels=labels[order])


@pytest.mark.slow
def test_a_folder_trains_as_the_npz_of_the_same_images(command, tmp_path):
    write_both(tmp_path, 60, 8)
    options = (*TRAIN, "data.validation_size=10", "trainer.batch_size=16", "model=conditional", "model.classes=2")
    for name, data in (
        ("first", "data=folder"),
        ("second", "data=folder"),
        ("npz", "data=arrays"),
    ):
        path = "photos.npz" if name == "npz" else "photos"
        finished = command("train", data, f"data.path={path}", *options, f"hydra.run.dir={name}")
        assert finished.code == 0, finished.err
        assert ("Decoding 60 images of" in finished.out) == (name == "first")
    first, second, npz = (
        [without_times(row) for row in read_metrics(tmp_path / name)] for name in ("first", "second", "npz")
    )
    assert first == second == npz
    finished = command("evaluate", "run=first", "split=val", "evaluator=[elbo]")
    assert finished.code == 0, finished.err
    assert "Decoding" not in finished.out


@pytest.mark.slow
def test_twenty_thousand_images_start_as_fast_as_their_npz(process, tmp_path):
    write_both(tmp_path, 20_000, 32)
    seconds = {}
    for name, data, path in (
        ("first", "folder", "photos"),
        ("npz", "arrays", "photos.npz"),
        ("second", "folder", "photos"),
    ):
        finished = process(
            "train", f"data={data}", f"data.path={path}", *TRAIN, f"hydra.run.dir={name}", timeout=250
        )
        assert finished.code == 0, finished.err
        assert ("Decoding 20,000 images of" in finished.out) == (name == "first")
        phases = read_result(tmp_path / name)["phase_seconds"]
        seconds[name] = sum(phases[phase] for phase in ("compose", "imports", "data", "build", "tracker"))
        print(name, phases)
    assert seconds["second"] < seconds["npz"] + 2
    assert read_metrics(tmp_path / "first")[0]["train/loss"] == read_metrics(tmp_path / "npz")[0]["train/loss"]


def start_decoding(folder: Path) -> subprocess.Popen[str]:
    """A run whose process pool is decoding 300 images."""
    write_folder(folder / "photos", patches(300, 24))
    started = start("train", *DECODE, cwd=folder)
    deadline = time.monotonic() + 60
    while not list(folder.glob("data/cache/.*.tmp")):
        assert time.monotonic() < deadline
        assert started.poll() is None, started.stderr.read()
        time.sleep(0.01)
    return started


@pytest.mark.slow
def test_ctrl_c_ends_decoding_at_once_and_leaves_no_half_file(tmp_path):
    started = start_decoding(tmp_path)
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=60)
    assert started.returncode == 130, err
    assert "Traceback" not in err
    assert [path.suffix for path in tmp_path.glob("data/cache/*")] == [".lock"]
    (run,) = tmp_path.glob("outputs/*/*")
    assert read_result(run)["status"] == "interrupted"


@pytest.mark.slow
def test_after_a_kill_two_starts_at_once_build_the_cache_once(tmp_path):
    started = start_decoding(tmp_path)
    started.kill()
    started.wait(60)
    started.stdout.close()  # its decoding processes end later
    started.stderr.close()
    assert not list(tmp_path.glob("data/cache/photos*.npy"))
    assert list(tmp_path.glob("data/cache/.*.tmp"))
    both = [start("train", *DECODE, f"hydra.run.dir={name}", cwd=tmp_path) for name in ("one", "two")]
    outputs = [process.communicate(timeout=200) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert sum("Decoding 300 images of" in out for out, _ in outputs) == 1
    assert sorted(path.suffix for path in tmp_path.glob("data/cache/*")) == [".json", ".lock", ".npy"]
    assert not list(tmp_path.glob("data/cache/.*.tmp"))
    one, two = (without_times(read_metrics(tmp_path / name)[0]) for name in ("one", "two"))
    assert one == two


@pytest.mark.slow
def test_a_dataset_of_torchvision_trains_and_is_opened_only_when_trusted(command):
    target = "torchvision.datasets.FakeData"
    dataset = [f"data.source.dataset._target_={target}", "+data.source.dataset.size=40"]
    dataset.append("+data.source.dataset.image_size=[3,8,8]")
    finished = command("train", "data=dataset", *dataset, *TRAIN, "trainer.batch_size=8", "hydra.run.dir=run")
    assert finished.code == 0, finished.err
    assert "evaluate run=run 'trusted_packages=[torchvision]' split=train" in finished.out
    refused = command("evaluate", "run=run", "split=train", "evaluator=[elbo]")
    assert refused.code == 1
    assert f"data.source.dataset._target_={target}, which is not a torch.utils.data.Dataset" in refused.err
    assert "say trusted_packages=[torchvision]" in refused.err
    trusted = "trusted_packages=[torchvision]"
    assert command("evaluate", "run=run", "split=train", "evaluator=[elbo]", trusted).code == 0
    missing = command("train", "data=dataset", *TRAIN)
    assert missing.code == 1
    assert "data.source.dataset._target_ is missing" in missing.err


@pytest.mark.slow
def test_augmented_training_differs_and_is_scored_on_plain_images(command, tmp_path):
    for name, augment in (("plain", "[]"), ("changed", "[flip,shift,crop]")):
        finished = command(
            "train", "data=digits", *TRAIN, f"data.augment={augment}", f"hydra.run.dir={name}", "optimizer.lr=1e-9"
        )
        assert finished.code == 0, finished.err
    plain, changed = (read_metrics(tmp_path / name)[0] for name in ("plain", "changed"))
    assert plain["train/loss"] != changed["train/loss"]
    assert plain["val/loss"] == pytest.approx(changed["val/loss"], rel=1e-3)


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["data=digits", "data.size=16"], "data.size=16 is not used by these data; leave it out"),
        (
            ["data=arrays", "data.path=x.npz", "data.skip_corrupt=true"],
            "data.skip_corrupt=True is not used by these",
        ),
        (
            ["data=digits", "data.augment=[turn]"],
            "data.augment=['turn']: turn is not known; use flip, shift, crop",
        ),
        (["data=folder", "data.path=."], "holds no images"),
        (["data=folder"], "data.path is missing; name the folder of your images, data.path=DIR"),
    ],
)
def test_what_cannot_be_used_is_refused_with_one_message(options, message, command, tmp_path):
    (tmp_path / "x.npz").touch()
    finished = command("train", *options, *TRAIN)
    assert finished.code == 1
    assert message in finished.err
    assert "Traceback" not in finished.err
    assert not list(tmp_path.glob("outputs/*/*/*"))


PEAK = """
import sys
from importlib import import_module
from pathlib import Path
import torch._dynamo, torch.utils.flop_counter
import vae_exp.evaluation.nll, vae_exp.runs.encoding, vae_exp.runs.training

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) // 1024

command = import_module(f"vae_exp.{sys.argv.pop(1)}")
before = peak()
command.main()
print("MiB above the imports:", peak() - before)
"""
needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


def peak_of(tmp_path: Path, *arguments: str) -> int:
    """The memory of a command in MiB, above what its imports take."""
    finished = subprocess.run(
        [sys.executable, "-c", PEAK, *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{tmp_path}"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    print(arguments[:2], finished.stdout.splitlines()[-1])
    return int(finished.stdout.split()[-1])


@pytest.mark.slow
@needs_proc
def test_two_gibibytes_train_within_one(tmp_path):
    count = 2**31 // (3 * 64 * 64)
    np.lib.format.open_memmap(tmp_path / "large.npy", mode="w+", dtype=np.uint8, shape=(count, 3, 64, 64))[0] = 255
    options = ("data=arrays", "data.path=large.npy", "data.validation_size=2000", "trainer.batch_size=1000")
    assert peak_of(tmp_path, "train", *options, *TRAIN, "hydra.run.dir=run") < 1024


@pytest.mark.slow
def test_images_of_a_file_train_as_fast_as_resident_ones(tmp_path):
    """Steps of both by turns: ratios within a minute are what can be believed."""
    pixels = torch.randint(256, (20_000, 3, 64, 64), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    np.save(tmp_path / "pixels.npy", pixels.numpy())
    stored = ImageSet(open_pixels(tmp_path / "pixels.npy")).stream_to(torch.device("cpu"))
    seconds = [0.0, 0.0]
    trainers, slow = [], partial(Adam, lr=1e-6)
    for images in (ImageSet(pixels), stored):
        shape = [3, 64, 64]
        vae = VAE(MLPEncoder(shape, 8, [64], "relu"), MLPDecoder(shape, 8, [64], "relu"), StandardNormalPrior(8))
        trainers.append(make_trainer(tmp_path / "run", train=images, vae=vae, batch_size=100, optimizer=slow))
        trainers[-1].run_steps(5)
    for _ in range(20):
        for number, trainer in enumerate(trainers):
            start_time = time.perf_counter()
            trainer.run_steps(10)
            seconds[number] += time.perf_counter() - start_time
    print(f"resident {20_000 / seconds[0]:.0f} images/s, of a file {20_000 / seconds[1]:.0f} images/s")
    assert seconds[0] / seconds[1] > 0.8
