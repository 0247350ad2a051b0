"""What a command line says twice or in vain is refused, whatever the config makes of it."""

import json
from pathlib import Path

import pytest

from tests.composing import composed
from vae_exp.configuration.validation import check_data_path, check_unused_overrides
from vae_exp.errors import UserError

CHOICES = {"loss/schedule@loss.beta": "linear", "loss": "beta_vae", "model": "mlp"}


def test_a_number_where_a_schedule_was_chosen_is_refused():
    config = composed("train", "loss=beta_vae", "loss.beta=1", "+loss/schedule@loss.beta=linear")
    with pytest.raises(UserError, match=r"loss\.beta=1(\.0)? overrides loss/schedule@loss\.beta=linear; leave"):
        check_unused_overrides(config, CHOICES)
    config = composed("train", "loss=beta_vae", "+loss/schedule@loss.beta=linear", "loss.beta.end=2")
    check_unused_overrides(config, CHOICES)


@pytest.mark.quick(1)
@pytest.mark.parametrize("sweep", [False, True])
def test_a_run_and_a_job_of_a_sweep_are_refused_before_they_start(command, tmp_path, sweep: bool):
    words = ["data=digits", "tracker=none", "loss=beta_vae", "+loss/schedule@loss.beta=cosine"]
    words = ["--multirun", *words, "loss.beta=1,2"] if sweep else [*words, "loss.beta=1"]
    finished = command("train", *words)
    assert finished.code == 1
    assert "loss.beta=1 overrides loss/schedule@loss.beta=cosine" in finished.err
    assert "the end of the schedule is loss.beta.end" in finished.err
    assert not list(tmp_path.glob("outputs/**/train.log"))
    if sweep:
        reasons = [json.loads(path.read_text())["error"] for path in tmp_path.glob("multirun/*/*/result.json")]
        assert len(reasons) == 2
        assert all("overrides loss/schedule@loss.beta=cosine" in reason for reason in reasons)


@pytest.mark.parametrize(
    "key", ["latent_dims=[5,6]", "top_hidden_dims=[3]", "classes=3", "num_codes=9", "code_dim=2"]
)
def test_a_key_of_another_model_is_refused(key: str):
    with pytest.raises(UserError, match=r"is not used by this model"):
        check_unused_overrides(composed("train", f"model.{key}"), {})


@pytest.mark.slow
def test_keys_that_a_model_uses_are_not_refused():
    for model in ("hierarchical", "conditional", "vq", "fsq", "resnet"):
        check_unused_overrides(composed("train", f"model={model}"), {})
    check_unused_overrides(composed("train", "model.classes=3", "+model.encoder.groups=${model.classes}"), {})
    check_unused_overrides(composed("train", "model.num_codes=3", "+model.encoder.num_codes=3"), {})


@pytest.mark.parametrize(
    ("path", "target", "message"),
    [
        (None, "vae_exp.data.folder.FolderSource", "name the folder of your images, data.path=DIR"),
        (None, "vae_exp.data.npz.NPZSource", "name the .npz file"),
        ("none", "vae_exp.data.folder.FolderSource", "none does not exist; name the folder of your images"),
        ("~none/x", "", "names a home folder that does not exist"),
    ],
)
def test_data_that_are_not_there_are_refused(path: str | None, target: str, message: str):
    with pytest.raises(UserError, match=message):
        check_data_path(path, target)
    check_data_path(str(Path(__file__).parent), target)
