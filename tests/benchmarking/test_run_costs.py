import pytest

from vae_exp.benchmark.run_costs import PHASES, run_costs, shared
from vae_exp.benchmark.timed_training import OPENING, PARTS, located
from vae_exp.errors import UserError


def test_every_part_that_is_timed_exists_and_has_its_phase():
    assert len(PARTS) > 15
    for place, phase in PARTS.items():
        owner, name = located(place)
        assert callable(getattr(owner, name)), place
        assert phase in PHASES
    owner, name = located(OPENING)
    assert callable(getattr(owner, name))


def test_training_gets_the_overrides_that_it_knows():
    given = [
        "data=digits", "model.latent_dim=3", "+model.x=1", "~model.activation", "model/encoder=mlp", "seed=2",
        "rounds=3", "batch_size=[10]", "device=cpu", "output=seed.json",
    ]  # fmt: skip
    assert shared(given) == given[:6]


def test_the_phases_of_a_real_run_add_up_to_its_wall_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    costs = run_costs(["data=digits", "rounds=1"], 100, [20], "cpu")
    total = costs.pop("total")
    assert tuple(costs) == PHASES
    assert sum(costs.values()) == pytest.approx(total, abs=1e-3)
    never_idle = ("imports", "compose", "data", "build", "tracker start", "training", "figures and evaluators")
    assert all(costs[phase] > 0 for phase in (*never_idle, "checkpoint", "tracker log", "tracker finish"))
    assert costs["rest"] < 0.2 * total
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_fails_says_why(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"(?s)exit code 1.*model.hidden_dims=\[0\] must list widths"):
        run_costs(["data=digits"], 100, [0], "cpu")
