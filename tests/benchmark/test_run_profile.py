import pytest

from vae_exp.benchmark.run_profile import profile_run, shared_overrides
from vae_exp.errors import UserError


def test_training_gets_the_overrides_that_it_knows():
    given = [
        "data=digits", "model.latent_dim=3", "+model.x=1", "~model.activation", "model/encoder=mlp", "seed=2",
        "rounds=3", "batch_size=[10]", "device=cpu", "output=seed.json",
    ]  # fmt: skip
    assert shared_overrides(given) == given[:6]


def test_a_run_that_fails_gives_its_reason(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"(?s)exit code 1.*model.hidden_dims=\[0\] must list widths"):
        profile_run(["data=digits"], 100, [0], "cpu")
