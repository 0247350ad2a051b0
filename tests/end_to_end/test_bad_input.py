"""One message that names the key, the value and what would be right; nothing half-written."""

import numpy as np
import pytest

from tests.test_conf import set_up_refusal
from vae_exp.errors import UserError

# What stops a run before or while it is set up; the rest of this table is seen by `set_up` itself.
COMMAND_LINES = {
    ("trainer.batch_size=1201",): ["trainer.batch_size=1201", "1200 training images"],
    ("scheduler=null",): ["a group cannot be null", "scheduler=none"],
    ("hydra.run.dir=nan.npz/run",): ["hydra.run.dir=", "cannot be written to"],
    ("hydra.run.dir=nan.npz",): ["hydra.run.dir=", "nan.npz cannot be written to"],
    ("tracker=online",): ["tracker=online", "API key", "tracker=offline"],
    ("model.latent_dims=[5,6]",): ["model.latent_dims=[5, 6] is not used by this model"],
    ("data=arrays",): ["data.path is missing", "data.path=my_images.npz"],
    ("data=arrays", "data.path=none.npz"): ["data.path=", "none.npz does not exist"],
}
REFUSED = {
    ("trainer.batch_size=99999999999999999999999",): [
        "trainer.batch_size=9999",
        "set trainer.batch_size=1200 or less",
    ],
    ("trainer.device=cuda:99",): ["trainer.device=cuda:99", "CUDA"],
    ("trainer.device=cuda",): ["trainer.device=cuda: there is no CUDA device here; use "],
    ("trainer.device=gpu",): ["trainer.device=gpu", "cuda:N"],
    ("trainer.monitor=val/elbo",): ["trainer.monitor=val/elbo", "val/loss"],
    ("data.validation_size=1437",): ["data.validation_size=1437", "1437 training images"],
    ("data.image_shape=[1,28,28]",): ["data.image_shape=[1, 28, 28]", "[1, 8, 8]"],
    ("data=dsprites",): ["data.path is missing; name the .npz file"],
    ("model.latent_dim=null",): ["model.latent_dim=null must be a whole number of at least 1"],
    ("model=hierarchical", "model.latent_dim=null", "model.latent_dims=[4,2]", "model.top_hidden_dims=[0]"): [
        "model.top_hidden_dims=[0] must be a list of widths of at least 1"
    ],
    ("loss=capacity", "loss.capacity.start=abc"): ["loss.capacity.start=abc must be a finite number"],
    ("optimizer=sgd", "optimizer.momentum=nan"): ["optimizer.momentum=nan must be a finite number of at least 0"],
    ("scheduler=cosine", "scheduler.T_max=null"): ["scheduler.T_max=null must be a whole number of at least 1"],
    ("model=conditional", "model.classes=null"): ["model.classes=null must be a whole number of at least 1"],
    ("model=resnet", "model.hidden_dims=[4,4,4]"): ["model.hidden_dims=[4, 4, 4] comes to a map of 1x1"],
    ("loss=iwae", "loss.num_samples=100000000"): ["loss.num_samples=100000000", "GiB for its gradients; cpu has"],
    ("data=arrays", "data.path=pickled.npz"): ["data.path=", "pickled", "never loaded"],
    ("data=arrays", "data.path=nan.npz"): ["'images' in data.path=", "NaN"],
    ("data=arrays", "data.path=empty.npz"): ["'images' in data.path=", "no pixels"],
    ("data=arrays", "data.path=large.npz"): ["'images' in data.path=", "[0, 1]"],
    ("data=arrays", "data.path=flat.npz"): ["'images' in data.path=", "[N, H, W]"],
    ("data=arrays", "data.path=truncated.npz"): ["data.path=", "cannot be read"],
}


@pytest.fixture
def files(tmp_path):
    images = np.full((4, 3, 3), 0.5)
    arrays = {"nan": images * np.nan, "empty": images[:0], "large": images * 255, "flat": images[0, 0]}
    for name, array in arrays.items():
        np.savez(tmp_path / f"{name}.npz", images=array)
    np.savez(tmp_path / "pickled.npz", images=np.array([{"a": 1}], dtype=object))
    whole = (tmp_path / "nan.npz").read_bytes()
    (tmp_path / "truncated.npz").write_bytes(whole[: len(whole) // 2])


@pytest.mark.quick(3)
@pytest.mark.parametrize("overrides", COMMAND_LINES, ids=" ".join)
def test_it_is_refused_in_one_message(overrides, command, files, tmp_path, tmp_path_factory, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # without credentials of W&B
    before = set(tmp_path.iterdir())
    finished = command("train", "data=digits", *overrides)
    assert finished.code == 1
    for part in COMMAND_LINES[overrides]:
        assert part in finished.err, finished.err
    assert "Traceback" not in finished.err + finished.out
    left = [path for path in set(tmp_path.iterdir()) - before if path.name != "outputs"]
    assert not left
    assert not [path for path in tmp_path.glob("outputs/**/*") if path.is_file() or path.parent.name != "outputs"]


@pytest.mark.quick(8)
@pytest.mark.parametrize("overrides", REFUSED, ids=" ".join)
def test_a_run_that_cannot_be_set_up_names_the_key_and_the_value(overrides, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = set_up_refusal("data=digits", *overrides)
    for part in REFUSED[overrides]:
        assert part in message


@pytest.mark.slow
def test_a_loss_that_is_infinite_at_the_start_is_refused(command):
    finished = command("train", "data=digits", "tracker=none", "loss=beta_vae", "loss.beta=1e40")
    assert finished.code == 1
    assert "BetaVAE) yields loss=inf on the first images" in finished.err


def test_an_error_of_a_users_source_is_one_message_and_leaves_nothing(command, tmp_path, monkeypatch):
    (tmp_path / "own_bars.py").write_text(
        "class Bars:\n    def train(self):\n        return [][3]\n    def test(self):\n        return None\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    before = set(tmp_path.iterdir())
    own = ["~data.source.path", "data.source._target_=own_bars.Bars", "tracker=none"]
    finished = command("train", "data=arrays", "data.path=bars.npz", *own, "~data.source.layout")
    assert finished.code == 1
    assert "data.source (Bars) fails: IndexError: list index out of range (own_bars.py, line 3)" in finished.err
    assert "Traceback" not in finished.err
    assert {path for path in tmp_path.iterdir() if path.name != "__pycache__"} == before


@pytest.mark.quick(1)
@pytest.mark.parametrize("sweep", [False, True])
def test_a_value_that_differs_whenever_it_is_read_is_refused(command, tmp_path, sweep: bool):
    words = ["data=digits", "tracker=none", "trainer.epochs=1", "seed=${now:%f}"]
    finished = command("train", *(["--multirun", "trainer.batch_size=10,20"] if sweep else []), *words)
    assert finished.code == 1
    assert "seed=${now:%f} calls a resolver" in finished.err
    assert not list(tmp_path.glob("**/checkpoints" if sweep else "*"))


def test_the_traceback_is_there_for_those_who_ask(command, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(UserError, match=r"trainer\.batch_size=5000"):
        command("train", "data=digits", "trainer.batch_size=5000")


def test_mnist_without_a_network_names_both_ways_out_within_ten_seconds(command, tmp_path, monkeypatch):
    from time import monotonic

    from torchvision import datasets

    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/", "http://127.0.0.1:9/mirror/"])
    began = monotonic()
    finished = command("train", "data=mnist", f"data.root={tmp_path / 'nowhere'}")
    assert monotonic() - began < 10
    assert finished.code == 1
    for part in ("data=digits", "train-images-idx3-ubyte.gz", str(tmp_path / "nowhere" / "MNIST" / "raw")):
        assert part in finished.err
    assert "Traceback" not in finished.err


@pytest.mark.slow
def test_a_truncated_archive_is_refused_where_it_cannot_be_downloaded(command, mnist_root, tmp_path, monkeypatch):
    import shutil

    from torchvision import datasets

    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    shutil.copytree(mnist_root / "MNIST", tmp_path / "data" / "MNIST")
    archive = tmp_path / "data" / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
    for unpacked in archive.parent.glob("*-ubyte"):
        unpacked.unlink()
    archive.write_bytes(archive.read_bytes()[:-10])
    finished = command("train", "data=mnist")
    assert finished.code == 1
    assert "MNIST is incomplete in data.root=" in finished.err
    assert "put train-images-idx3-ubyte.gz" in finished.err


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", ["evaluate", "generate"])
def test_commands_on_runs_refuse_too(name: str, command, digits_run, tmp_path):
    for overrides, parts in (
        ([], ["run is missing"]),
        (["run=nowhere"], ["run=", "nowhere is not a directory"]),
        (["run=."], ["holds no run", "config.yaml is missing"]),
        ([f"run={digits_run}", "split=tset"], ["split=tset", "train, val, test"]),
        ([f"run={digits_run}", "splitt=test"], ["splitt", "did you mean split?"]),
        ([f"run={digits_run}", "device=cuda:99"], ["cuda:99"]),
        ([f"run={digits_run}", "checkpoint=first"], ["checkpoint=first", "best, last"]),
    ):
        finished = command(name, *overrides)
        assert finished.code == 1
        for part in parts:
            assert part in finished.err
        assert "Traceback" not in finished.err
        assert not list(tmp_path.iterdir())


def test_scores_that_cannot_be_written_are_one_message(command, copied_run):
    (copied_run / "evaluation").touch()
    finished = command("evaluate", f"run={copied_run}", "evaluator=[elbo]")
    path = copied_run / "evaluation" / "test-best.json"
    assert (finished.code, finished.err) == (1, f"Error: {path}: Not a directory.\n")
