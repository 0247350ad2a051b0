"""Runs that start from the weights of another."""

import logging
from pathlib import Path

import pytest
import torch

from tests.builders import small_vae
from tests.readers import read_result
from vae_exp import load_run
from vae_exp.errors import UserError
from vae_exp.runs.warm_start import freeze, initialize_from_run

TRAIN = ("data=digits", "trainer.epochs=1", "tracker=none", "evaluator=[]", "hydra.run.dir=second")


def test_a_run_starts_from_the_best_weights_of_another(command, copied_run: Path, tmp_path: Path):
    done = command("train", *TRAIN, f"initialize_from={copied_run}", "model.freeze=[encoder,decoder.hidden]")
    assert done.code == 0, done.err
    assert "Training 32,064 of 68,068 parameters on" in done.out
    first, second = load_run(copied_run).vae.state_dict(), load_run(tmp_path / "second").vae.state_dict()
    for name, weight in second.items():
        assert torch.equal(weight, first[name]) == name.startswith(("encoder.", "decoder.hidden.")), name
    assert (
        read_result(tmp_path / "second")["metrics"]["train/loss"]
        < read_result(copied_run)["metrics"]["train/loss"]
    )
    again = command("train", "resume=second", "trainer.epochs=2")
    assert again.code == 0, again.err
    resumed = load_run(tmp_path / "second").vae.state_dict()
    assert torch.equal(resumed["encoder.hidden.0.weight"], first["encoder.hidden.0.weight"])


@pytest.mark.slow
def test_what_does_not_fit_is_refused_or_listed(command, copied_run: Path, tmp_path: Path):
    wider = (*TRAIN, f"initialize_from={copied_run}", "model.latent_dim=3")
    refused = command("train", *wider)
    assert refused.code == 1
    assert "of another shape: encoder." in refused.err
    assert "initialize_strict=false to copy what fits" in refused.err
    assert not (tmp_path / "second").exists()
    done = command("train", *wider, "initialize_strict=false")
    assert done.code == 0, done.err
    assert "of another shape: encoder." in done.out


def test_a_directory_without_a_checkpoint_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"initialize_from=.* has no checkpoint; expected .*best\.pt"):
        initialize_from_run(small_vae(), str(tmp_path), strict=True)


def test_a_checkpoint_is_taken_by_its_own_path(copied_run: Path):
    vae = load_run(copied_run).vae
    weights = {name: weight.clone() for name, weight in vae.state_dict().items()}
    for weight in vae.state_dict().values():
        weight.zero_()
    initialize_from_run(vae, str(copied_run / "checkpoints" / "best.pt"), strict=True)
    for name, weight in vae.state_dict().items():
        assert torch.equal(weight, weights[name])
    with pytest.raises(UserError, match=r"last\.pt does not exist"):
        initialize_from_run(vae, str(copied_run / "last.pt"), strict=True)


def test_the_average_is_taken_where_the_run_kept_one(command, tmp_path: Path):
    done = command("train", *TRAIN[:-1], "trainer.ema_decay=0.9", "hydra.run.dir=first")
    assert done.code == 0, done.err
    stored = torch.load(tmp_path / "first" / "checkpoints" / "best.pt", weights_only=True)
    vae = load_run(tmp_path / "first").vae
    for weight in vae.state_dict().values():
        weight.zero_()
    initialize_from_run(vae, str(tmp_path / "first"), strict=True)
    weights = dict(vae.named_parameters())
    assert weights.keys() == stored["average"].keys()
    for name, average in stored["average"].items():
        assert torch.equal(weights[name], average)
        assert not torch.equal(average, stored["vae"][name])


def test_another_architecture_shares_no_weight(copied_run: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING)
    with pytest.raises(UserError, match="no weight fits the model: missing in the run: weight"):
        initialize_from_run(torch.nn.Linear(2, 3), str(copied_run), strict=False)


def test_frozen_parts_must_be_there_and_leave_something_to_train():
    with pytest.raises(UserError, match=r"model\.freeze=\[encodr\] is no part of the model"):
        freeze(small_vae(), ["encodr"])
    with pytest.raises(UserError, match=r"model\.freeze=\[encoder,decoder\] leaves nothing to train"):
        freeze(small_vae(), ["encoder", "decoder"])
