import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from vae_exp.errors import UserError
from vae_exp.sweep.search.space import parsed_space


def test_hydras_words_become_distributions():
    space = parsed_space(
        [
            "data=digits",
            "a=choice(1,2,x)",
            "+b=interval(0.5,2)",
            "c=tag(log,interval(1e-4,1e-1))",
            "d=int(interval(2,64))",
            "e=range(2,10,4)",
            "f=1,2",
            "g=int(tag(log,interval(2,64)))",
            "h=tag(log,range(1,1001))",
        ],
        {},
    )
    assert space.fixed == ("data=digits",)
    assert space.distributions == {
        "a": CategoricalDistribution(["1", "2", "x"]),
        "+b": FloatDistribution(0.5, 2),
        "c": FloatDistribution(1e-4, 1e-1, log=True),
        "d": IntDistribution(2, 64),
        "e": IntDistribution(2, 6, step=4),
        "f": CategoricalDistribution(["1", "2"]),
        "g": IntDistribution(2, 64, log=True),
        "h": IntDistribution(1, 1000, log=True),
    }


def test_lists_are_choices_and_trials_become_overrides():
    space = parsed_space(["model.hidden_dims=choice([500],[400,200])", "seed=3", "lr=interval(0.1,0.2)"], {})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = set()
    for _ in range(20):
        fixed, dims, rate = space.suggest(study.ask())
        assert fixed == "seed=3"
        assert 0.1 <= float(rate.removeprefix("lr=")) <= 0.2
        seen.add(dims)
    assert seen == {"model.hidden_dims=[500]", "model.hidden_dims=[400,200]"}


def test_a_key_is_searched_only_where_its_condition_holds():
    space = parsed_space(["beta=interval(1,4)", "loss=choice(elbo,beta_vae)"], {"beta": {"loss": ["beta_vae"]}})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trials = [space.suggest(study.ask()) for _ in range(20)]
    assert all((len(trial) == 2) == ("loss=beta_vae" in trial) for trial in trials)
    assert {len(trial) for trial in trials} == {1, 2}


@pytest.mark.parametrize(
    ("values", "needed"),
    [
        ("choice([200],[400,200])", [400, 200]),
        ("choice([200],[400,200])", "[400, 200]"),
        ("null,1", None),
        ("choice(true,false)", True),
        ("choice(true,false)", "true"),
        ("choice(1e-3,1)", 0.001),
        ("choice('a b',c)", "a b"),
        ("choice('a,b',c)", "a,b"),
        ("choice(2,3)", "2"),
        ("range(0.5,2,0.5)", 0.5),
    ],
)
def test_a_condition_names_a_value_as_yaml_or_as_hydra_reads_it(values: str, needed: object):
    space = parsed_space([f"a={values}", "b=choice(1,2)"], {"b": {"a": [needed]}})
    assert {len(example) for example in space.examples()} == {1, 2}


@pytest.mark.parametrize(
    ("overrides", "conditions", "message"),
    [
        (["seed=0"], {}, "has nothing to search"),
        (["a=range(3,3)"], {}, "cannot be searched: it has no values"),
        (["a=interval(3,1)"], {}, "a=interval.3,1. cannot be searched"),
        (["a=tag(log,interval(0,1))"], {}, "cannot be searched"),
        (["a=tag(Log,interval(1,2))"], {}, "tag Log is not known; only log is"),
        (["a=tag(Log,range(1,3))"], {}, "tag Log is not known; only log is"),
        (["a=tag(log,range(1,9,2))"], {}, "cannot be searched"),
        (["a=tag(log,range(0.5,2,0.5))"], {}, "tag log needs whole numbers"),
        (["a=1,2"], {"b": {"a": [1]}}, "names b, which is not searched; known: a"),
        (["a=1,2"], {"a": {"c": [1]}}, "names c, which is not searched; known: a"),
        (["a=1,2", "b=1,2"], {"a": {"b": [1]}, "b": {"a": [1]}}, "needs, in the end, itself"),
    ],
)
def test_what_cannot_be_searched_is_refused(overrides, conditions, message):
    with pytest.raises(UserError, match=message):
        parsed_space(overrides, conditions)


def test_every_key_occurs_in_an_example_that_meets_its_conditions():
    space = parsed_space(
        ["seed=0", "beta=choice(1,2)", "loss=choice(elbo,beta_vae)", "over=interval(1,2)"],
        {"beta": {"loss": ["beta_vae"]}, "over": {"beta": [1]}},
    )
    keys = {tuple(override.partition("=")[0] for override in example) for example in space.examples()}
    assert keys == {("seed", "loss"), ("seed", "loss", "beta"), ("seed", "loss", "beta", "over")}


def test_a_grid_needs_values_that_can_be_listed():
    assert parsed_space(["a=1,2", "b=int(interval(2,4))"], {}).grid() == {"a": ["1", "2"], "b": [2, 3, 4]}
    with pytest.raises(UserError, match=r"name=grid: c has no list of values"):
        parsed_space(["c=interval(0,1)"], {}).grid()


def test_the_last_value_of_a_key_counts():
    space = parsed_space(["a=1,2", "b=1,2", "a=3"], {})
    assert space.fixed == ("a=3",)
    assert set(space.distributions) == {"b"}
