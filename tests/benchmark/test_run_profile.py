import pytest

from vae_exp.benchmark.run_profile import profile_run, shared_overrides
from vae_exp.errors import UserError


def test_training_gets_the_overrides_that_it_knows():
    given = [
        "data=digits", "model.latent_dim=3", "+model.x=1", "~model.activation", "model/encoder=mlp", "seed=2",
        "rounds=3", "batch_size=[10]", "device=cpu", "output=seed.json",
    ]  # fmt: skip
    assert shared_overrides(given) == given[:6]


def test_the_phases_of_a_real_run_add_up_to_its_wall_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    profile = profile_run(["data=digits", "rounds=1"], 100, [20], "cpu")
    total = profile.pop("total")
    assert sum(profile.values()) == pytest.approx(total, abs=1e-3)
    for phase in ("compose", "imports", "data", "build", "tracker", "training", "evaluators", "checkpoints"):
        assert profile[phase] > 0
    assert 0 < profile["rest"] < total / 2
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_fails_gives_its_reason(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"(?s)exit code 1.*model.hidden_dims=\[0\] must list widths"):
        profile_run(["data=digits"], 100, [0], "cpu")
