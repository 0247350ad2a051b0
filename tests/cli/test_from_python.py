"""`vae_exp.train([...])`, a training run inside the process of the caller."""

import logging
import pydoc
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import vae_exp
from vae_exp.cli.callbacks import check_run
from vae_exp.configuration.config_dir import config_dir
from vae_exp.configuration.resolvers import register_resolvers
from vae_exp.configuration.schema import register_schemas
from vae_exp.data.images import Batch
from vae_exp.errors import UserError
from vae_exp.objective.elbo import ELBO
from vae_exp.storage.run_directory import RunDirectory

WORDS = ["data=digits", "model.latent_dim=8", "trainer.epochs=2", "tracker=none", "evaluator=[]"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> vae_exp.TrainedRun:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("python"))
        return vae_exp.train(WORDS)


def test_it_trains_as_the_command_does_and_opens_the_run(run, command, tmp_path: Path):
    assert command("train", *WORDS, "hydra.run.dir=run").code == 0
    by_command = vae_exp.load_run(tmp_path / "run")
    for name, weight in run.vae.state_dict().items():
        assert torch.equal(weight, by_command.vae.state_dict()[name])
    assert [row["epoch"] for row in run.metrics] == [1, 2]
    assert run.result["status"] == "completed"
    assert "Training" in run.directory.log.read_text()
    files = sorted(path.name for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert sorted(path.name for path in run.directory.path.rglob("*") if path.is_file()) == files


@pytest.mark.slow
def test_a_run_is_resumed(run):
    resumed = vae_exp.train([f"resume={run.directory.path}", "trainer.epochs=3"])
    assert resumed.directory == run.directory
    assert len(resumed.metrics) == 3
    assert resumed.caller.given == {}


def test_a_resumed_run_keeps_its_data_root_and_nothing_is_downloaded(
    run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    opened = []
    monkeypatch.setattr("vae_exp.runs.training.run_training", lambda *_: None)
    monkeypatch.setattr("vae_exp.runs.resume.load_resume_state", lambda *_: None)
    monkeypatch.setattr("vae_exp.runs.trained_run.load_run", lambda *_, **given: opened.append(given["data"]))
    vae_exp.train([f"resume={run.directory.path}"])
    vae_exp.train([f"resume={run.directory.path}", f"data.root={tmp_path}"])
    assert opened == [{}, {"root": str(tmp_path)}]


def test_a_full_disk_of_a_resumed_run_is_refused_by_its_key(run, monkeypatch: pytest.MonkeyPatch):
    def fail(**arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", fail)
    with pytest.raises(UserError, match=f"^resume={run.directory.path} cannot be written to: .*No space"):
        vae_exp.train([f"resume={run.directory.path}", "trainer.epochs=9"])


def test_the_host_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    root, ours = logging.getLogger(), logging.getLogger("vae_exp")
    hydra = HydraConfig.instance()
    before = signal.getsignal(signal.SIGINT), list(root.handlers), ours.level, list(ours.handlers), hydra.cfg
    vae_exp.train([*WORDS, "trainer.epochs=1"])
    after = signal.getsignal(signal.SIGINT), list(root.handlers), ours.level, list(ours.handlers), hydra.cfg
    assert after == before
    assert not GlobalHydra.instance().is_initialized()


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.latent_dims=3"], "model.latent_dims"),
        (["data=digit"], "did you mean digits"),
        (["data=digits", "trainer.epochs=0"], "trainer.epochs=0 must be"),
        (["data=digits", "model.latent_dim=2,8"], "model.latent_dim=2,8"),
        (
            ["--multirun", "seed=1,2"],
            "--multirun is an option of python -m vae_exp.train",
        ),
        (["--help"], "--help is an option"),
        (
            ["experiment=latent_sweep", "data=digits"],
            "experiment=latent_sweep data=digits is a sweep: start",
        ),
    ],
)
def test_what_the_command_refuses_is_a_user_error(monkeypatch, tmp_path: Path, words: list[str], message: str):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        vae_exp.train(words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("overrides", [None, [3], "data=digits", 3])
def test_what_is_no_list_of_overrides_is_a_type_error(overrides):
    with pytest.raises(TypeError, match=r"expected a list of overrides, such as \['data=digits'"):
        vae_exp.train(overrides)


@pytest.mark.slow
def test_runs_in_threads_wait_for_each_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run):
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(lambda name: vae_exp.train([*WORDS, f"hydra.run.dir={name}"]), "ab")
    assert first.directory != second.directory
    for name, weight in run.vae.state_dict().items():
        for trained in (first, second):
            assert torch.equal(weight, trained.vae.state_dict()[name])


def test_runs_of_one_config_and_second_have_directories_of_their_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.chdir(tmp_path)
    register_schemas()
    register_resolvers()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("train", ["data=digits", "tracker=none"], return_hydra_config=True)
    first = RunDirectory(Path(config.hydra.run.dir))
    first.config.parent.mkdir(parents=True)
    first.config.touch()
    check_run(config)
    assert str(tmp_path / config.hydra.run.dir) == f"{first.path}-2"


def test_a_run_within_a_run_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vae_exp.runs.training.run_training", lambda *_, **__: vae_exp.train(WORDS))
    with pytest.raises(UserError, match="is called by the run that it trains: call it after that"):
        vae_exp.train(WORDS)


@pytest.mark.slow
def test_a_class_of_the_callers_own_is_trusted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "own_nets.py").write_text(
        "from vae_exp.model.encoders import MLPEncoder\n\n\nclass OwnEncoder(MLPEncoder):\n    pass\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    own = "model.encoder._target_=own_nets.OwnEncoder"
    trained = vae_exp.train([*WORDS, "trainer.epochs=1", own])
    assert type(trained.vae.encoder).__name__ == "OwnEncoder"
    with pytest.raises(UserError, match="trusted_packages"):
        vae_exp.train([f"resume={trained.directory.path}", "trainer.epochs=2"])


def test_a_pipeline_of_scikit_learn_uses_the_codes(run):
    digits = load_digits()
    images, labels = digits.data[:300] / 16, digits.target[:300]
    transformer = vae_exp.VAETransformer(run)
    codes = transformer.transform(images)
    pixels = torch.from_numpy(images).float().reshape(-1, 1, 8, 8)
    np.testing.assert_allclose(codes, run.vae.encode(pixels).mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        transformer.inverse_transform(codes), run.vae.reconstruct(pixels).flatten(1), rtol=1e-4, atol=1e-5
    )
    pipeline = make_pipeline(vae_exp.VAETransformer(run.directory.path), LogisticRegression(max_iter=500))
    assert pipeline.fit(images, labels).score(images, labels) > 0.5
    scores = transformer.score_samples(images[:9])
    bound = -ELBO(2000)(run.vae, Batch(pixels[:9]), torch.Generator().manual_seed(0)).loss.detach().numpy()
    np.testing.assert_array_less(bound - 0.1, scores)  # log p(x) is above its bound, and here not far
    np.testing.assert_allclose(scores, bound, atol=3)
    assert transformer.score_samples(np.random.default_rng(0).random((9, 64))).max() < scores.min()
    np.testing.assert_allclose(transformer.transform(images.reshape(-1, 8, 8, 1)), codes)


def test_only_images_in_the_unit_interval_are_transformed(run):
    transformer = vae_exp.VAETransformer(run)
    images = np.random.default_rng(0).random((5, 1, 8, 8))
    refused = {
        r"images of shape \[5\] are not those of the run, \[1, 8, 8\]": np.zeros((2, 5)),
        r"images hold values from 0 to 16; expected \[0, 1\]": load_digits().data.astype(np.uint8)[:9],
        r"images hold values from -": -images,
        "contains NaN": images * np.nan,
        "Complex data": images.astype(complex),
        "0 sample": images[:0],
        "got scalar array instead": None,
        "could not convert string": np.array([["a"] * 64]),
    }
    for message, value in refused.items():
        for method in (transformer.transform, transformer.score_samples):
            with pytest.raises(ValueError, match=message):
                method(value)


def test_colour_images_with_the_channels_last_are_refused(run):
    colour = replace(run, config={"data": {"image_shape": [3, 8, 8]}})
    with pytest.raises(ValueError, match=r"shape \[8, 8, 3\] are not those of the run, \[3, 8, 8\] \(\[channels"):
        vae_exp.VAETransformer(colour).transform(np.zeros((2, 8, 8, 3)))


@pytest.mark.parametrize("name", ["batch_size", "num_importance_samples"])
@pytest.mark.parametrize("value", [0, -1])
def test_the_transformer_needs_positive_numbers(run, name: str, value: int):
    with pytest.raises(ValueError, match=f"{name} == {value}, must be >= 1"):
        vae_exp.VAETransformer(run, **{name: value}).score_samples(np.zeros((2, 64)))


@pytest.mark.parametrize("shape", [(4, 3), (0, 8), (8,)])
def test_latents_of_another_shape_are_refused(run, shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"expected \[N, 8\]|0 sample|Expected 2D array"):
        vae_exp.VAETransformer(run).inverse_transform(np.zeros(shape))


def test_the_latent_units_have_names(run):
    assert list(vae_exp.VAETransformer(run).get_feature_names_out()) == [f"vaetransformer{i}" for i in range(8)]


def test_what_there_is_to_use_is_listed_and_described():
    assert {"train", "load_run", "read_runs", "VAETransformer"} <= set(dir(vae_exp))
    text = pydoc.plain(pydoc.render_doc(vae_exp.train))
    assert "a list of overrides" in text
    assert "DictConfig" not in text


def test_warnings_alone_reach_somebody_who_configures_no_logging(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.getLogger("vae_exp"), "propagate", False)  # as without the handlers of pytest
    vae_exp.train([*WORDS, "trainer.epochs=1"])
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("These are greyscale images and the likelihood is a Bernoulli")


def test_codes_and_samples_carry_no_graph(run):
    assert not run.vae.encode(torch.rand(2, 1, 8, 8)).mean.requires_grad
    assert run.vae.sample(16).shape == (16, 1, 8, 8)
