import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_exp.configuration.naming import file_name, identifying_values, job_label, short_keys, swept_keys

LEGAL = re.compile(r"[A-Za-z0-9._-]+")


def _name(overrides: list[str]) -> str:
    return file_name(identifying_values(overrides), ())


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["model.latent_dim=2"], "latent_dim-2"),
        (
            ["model.latent_dim=2", "model.hidden_dims=[400,200]", "seed=0"],
            "latent_dim-2_hidden_dims-400-200_seed-0",
        ),
        (["model.hidden_dims=[500]"], "hidden_dims-500"),
        (["model.hidden_dims=[]", "seed=1"], "hidden_dims_seed-1"),
        (["model.decoder.hidden_dims=[16]", "model.hidden_dims=[8]"], "decoder.hidden_dims-16_hidden_dims-8"),
        (["+experiment=minimalist_vae"], "experiment-minimalist_vae"),
        (["++trainer.device=cuda:0"], "device-cuda-0"),
        (["~evaluator.nll"], "nll-deleted"),
        (["optimizer@model.optimizer=adam"], "optimizer-adam"),
        (["model/encoder=mlp"], "encoder-mlp"),
        (["optimizer.lr=1e-3"], "lr-1e-3"),
        (["optimizer.lr=-0.5"], "lr-0.5"),
        (["data.path='/data/my images.npz'"], "path-my-images.npz"),
        (["data=folder", "data.path=../mine/shapes/"], "data-folder_path-shapes"),
        (["model.activation=größe"], "activation-gr-e"),
        (["data.path=.."], "path"),
        (["data.root=..", "trainer.threads=2", "seed=1"], "seed-1"),
        (["loss.beta=2", "+optimizer.beta=3", "seed=1"], "loss.beta-2_optimizer.beta-3_seed-1"),
        (["sweep.name=mine", "tracker=none", "hydra.job.num=3", "~tracker.tags", "seed=1"], "seed-1"),
        (["sweeper.name=mine"], "name-mine"),
        ([], "default"),
        (["=", "+"], "default"),
    ],
    ids=str,
)
def test_overrides_become_a_readable_name(overrides: list[str], name: str):
    assert _name(overrides) == name


def test_a_long_list_is_cut():
    widths = ",".join(str(width) for width in range(1000, 1100))
    name = _name([f"model.hidden_dims=[{widths}]"])
    assert name.startswith("hidden_dims-1000-1001-")
    assert 100 < len(name) <= 120


KEYS = st.from_regex(r"[+~]{0,2}[a-z_./@]{1,20}", fullmatch=True)
OVERRIDES = st.lists(
    st.one_of(st.text(max_size=60), st.builds("{}={}".format, KEYS, st.text(max_size=80))), max_size=6
)


@settings(max_examples=200)
@given(OVERRIDES)
def test_a_name_is_never_empty_never_long_and_safe_in_a_shell(overrides: list[str]):
    name = _name(overrides)
    assert LEGAL.fullmatch(name)
    assert len(name) <= 120
    assert name[0] not in "-."


SWEEP = [
    ["data=digits", "model.latent_dim=2", "model.decoder.hidden_dims=[16]", "+seed=0", "tracker=none"],
    ["data=digits", "model.latent_dim=4", "model.decoder.hidden_dims=[16,32]", "+seed=0", "tracker=none"],
]


@pytest.mark.parametrize(
    ("added", "searched", "labels"),
    [
        (
            [],
            [],
            ["latent_dim=2 decoder.hidden_dims=[16]", "latent_dim=4 decoder.hidden_dims=[16,32]"],
        ),
        (
            [],
            ["seed"],
            ["latent_dim=2 decoder.hidden_dims=[16] seed=0", "latent_dim=4 decoder.hidden_dims=[16,32] seed=0"],
        ),
        (
            [["data=mnist", *SWEEP[0][1:]]],
            [],
            [
                "data=digits latent_dim=2 decoder.hidden_dims=[16]",
                "data=digits latent_dim=4 decoder.hidden_dims=[16,32]",
                "data=mnist latent_dim=2 decoder.hidden_dims=[16]",
            ],
        ),
        (
            [["data=digits", "seed=0", *more] for more in (["model/prior=flow"], ["~evaluator.nll"], [])],
            [],
            [
                "latent_dim=2 decoder.hidden_dims=[16]",
                "latent_dim=4 decoder.hidden_dims=[16,32]",
                "prior=flow",
                "nll=deleted",
                "default",
            ],
        ),
    ],
    ids=["grid", "search", "one more value of a constant key", "jobs with other keys"],
)  # fmt: skip
def test_a_label_has_the_values_that_differ_between_the_jobs_of_a_sweep(
    added: list[list[str]], searched: list[str], labels: list[str]
):
    jobs = [identifying_values(job) for job in [*SWEEP, *added]]
    swept = swept_keys(jobs, searched)
    assert [job_label(job, swept) for job in jobs] == labels


def test_a_job_alone_has_all_its_values():
    [job] = [identifying_values(SWEEP[0])]
    assert swept_keys([job]) == []
    assert job_label(job, []) == "data=digits latent_dim=2 decoder.hidden_dims=[16] seed=0"
    assert file_name(job, []) == "data-digits_latent_dim-2_decoder.hidden_dims-16_seed-0"


@settings(max_examples=200)
@given(
    st.lists(st.dictionaries(st.sampled_from(["seed", "data", "a.b", "c.b", "a/c"]), st.text("xy", max_size=2)))
)
def test_jobs_that_differ_have_labels_that_differ(jobs: list[dict[str, str]]):
    """Against all pairs; and a key that is the same in all jobs is in no label."""
    swept = swept_keys(jobs)
    for one in jobs:
        for other in jobs:
            assert (job_label(one, swept) == job_label(other, swept)) == (one == other)
    assert swept == [
        key
        for key in dict.fromkeys(key for job in jobs for key in job)
        if any(job.get(key) != jobs[0].get(key) for job in jobs)
    ]


def test_a_short_key_is_longer_where_two_would_be_the_same():
    assert short_keys(["loss.beta", "optimizer.beta", "model/encoder", "optimizer@model.optimizer", "seed"]) == {
        "loss.beta": "loss.beta",
        "optimizer.beta": "optimizer.beta",
        "model/encoder": "encoder",
        "optimizer@model.optimizer": "optimizer",
        "seed": "seed",
    }
