import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from vae_exp.configuration.overrides import (
    from_python_values,
    override_key,
    overrides_by_key,
    quote_value,
    split_override,
)


@pytest.mark.parametrize(
    ("override", "key", "dotted_key", "value"),
    [
        ("seed=0", "seed", "seed", "0"),
        ("++loss.beta=4", "loss.beta", "loss.beta", "4"),
        ("~model.prior", "model.prior", "model.prior", ""),
        ("hydra/launcher=pool", "hydra/launcher", "hydra.launcher", "pool"),
        ("loss/schedule@loss.beta=linear", "loss/schedule@loss.beta", "loss.schedule", "linear"),
        ("data.path=a=b@c", "data.path", "data.path", "a=b@c"),
    ],
)
def test_an_override_has_a_key_and_a_value(override: str, key: str, dotted_key: str, value: str):
    assert split_override(override) == (key, value)
    assert override_key(override) == dotted_key
    assert overrides_by_key([override]) == {key: "deleted" if override.startswith("~") else value}


@pytest.mark.parametrize("text", ["", "a", "null", "1e-3", "it's", "a\\'b", "a b,c=d[e]{f}", "end\\", "\\\\", "é"])
def test_a_quoted_value_reaches_hydra_as_it_is(text: str):
    [override] = OverridesParser.create().parse_overrides([f"key={quote_value(text)}"])
    value = override.value()
    assert str(value) == text
    assert type(value) is not int


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.num_codes=None", ["model.num_codes=null"]),
        ("tracker.name='None'", ["tracker.name='None'"]),
        ("evaluator=[None]", ["evaluator=[None]"]),
        ("model.num_codes=None,4", ["model.num_codes=None,4"]),
        (
            "model={'latent_dim': 8, 'prior': 'vamp', 'encoder': {'hidden_dims': [4, None]}}",
            ["model.latent_dim=8", "model/prior='vamp'", "model.encoder.hidden_dims=[4,null]"],
        ),
        ("++a={'b': 1e-05, 'c': \"it's, two\"}", ["++a.b=1e-05", "++a.c='it\\'s, two'"]),
        ("optimizer={'lr': '1e-4', 'eps': '1e-8x'}", ["optimizer.lr=1e-4", "optimizer.eps='1e-8x'"]),
        ("a={'b': {}, 'c': [{'d': True}]}", ["a.b={}", "a.c=[{d:True}]"]),
        ("a={b: 1, c: None}", ["a={b: 1, c: None}"]),
        ("a={'b': 1", ["a={'b': 1"]),
        ("a={}", ["a={}"]),
    ],
)
def test_values_as_python_writes_them_become_those_of_hydra(override: str, expected: list[str]):
    assert from_python_values(override) == expected
    if expected != [override]:
        OverridesParser.create().parse_overrides(expected)
