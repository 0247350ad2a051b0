from math import isnan, sqrt
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sweep.sweeps import make_job, make_sweep
from vae_exp.errors import UserError
from vae_exp.sweep.aggregate import Group, combined, default_keys, estimate, grouped, in_order, meaning
from vae_exp.sweep.job_records import read_jobs


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20))
def test_mean_and_standard_error_are_those_of_numpy(values: list[float]):
    found = estimate(values)
    assert found.mean == pytest.approx(np.mean(values), abs=1e-6)
    assert found.error == pytest.approx(np.std(values, ddof=1) / sqrt(len(values)), abs=1e-6)


def test_a_single_job_tells_nothing_of_its_error():
    assert isnan(estimate([1.5]).error)


def test_jobs_that_differ_in_their_seed_alone_are_one_group(tmp_path: Path):
    jobs = read_jobs(make_sweep(tmp_path))
    assert set(default_keys(jobs)) == {"model.latent_dim", "model.hidden_dims"}
    groups = grouped(jobs, default_keys(jobs))
    assert len(groups) == 6
    assert {group.count for group in groups} == {2}
    group = next(each for each in groups if each.keys["model.latent_dim"] == "2")
    values = [
        job.metrics["val/elbo"] for job in jobs if all(job.keys[key] == value for key, value in group.keys.items())
    ]
    assert group.metrics["val/elbo"].mean == pytest.approx(np.mean(values))


SEEDS = {("1", "a"): [1.0, 2.0, 6.0], ("2", "a"): [4.0, 5.0], ("3", "b"): [7.0, 9.0]}


def _settings() -> list[Group]:
    return [
        Group(
            {"beta": beta, "model": model},
            len(values),
            {"val/nll": estimate(values), "val/elbo": estimate(values)},
        )
        for (beta, model), values in SEEDS.items()
    ]


def test_the_mean_over_other_keys_is_that_of_the_settings_whatever_their_seeds():
    """Its error is the spread of that very number when every seed is drawn anew, settings being fixed."""
    a, b = combined(_settings(), ["model"], "mean", "val/nll")
    found = a.metrics["val/nll"]
    assert (a.keys, a.count, found.count) == ({"model": "a"}, 5, 5)
    assert found.mean == pytest.approx((3.0 + 4.5) / 2)
    source = np.random.default_rng(0)
    draws = [
        source.normal(0, np.std(SEEDS[beta, "a"], ddof=1), (200_000, len(SEEDS[beta, "a"]))).mean(axis=1)
        for beta in ("1", "2")
    ]
    assert found.error == pytest.approx(np.mean(draws, axis=0).std(), rel=0.01)
    assert b.metrics["val/nll"] == estimate(SEEDS["3", "b"])


def test_the_best_over_other_keys_is_one_setting_with_all_its_metrics():
    a, _ = combined(_settings(), ["model"], "best", "val/nll")
    assert (a.count, a.metrics["val/nll"], a.metrics["val/elbo"]) == (5, *[estimate(SEEDS["1", "a"])] * 2)
    [whole] = combined(_settings(), [], "best", "val/elbo")
    assert whole.metrics["val/nll"].mean == 8.0


def test_what_a_number_is_taken_over_is_told():
    told = [meaning(_settings(), keys, "best", "val/nll") for keys in (["beta", "model"], ["model"], [])]
    assert told == [
        "mean over 2 to 3 seeds",
        "mean over 2 to 3 seeds; best over beta",
        "mean over 2 to 3 seeds; best over beta, model",
    ]
    assert meaning([Group({"a": "1"}, 1, {"m": estimate([1.0])})], ["a"], "mean", "m") == "one seed each"


def test_only_completed_jobs_count(tmp_path: Path):
    make_job(tmp_path, ["a=1", "seed=0"], val__loss=1.0)
    make_job(tmp_path, ["a=1", "seed=1"], "failed", val__loss=99.0)
    make_job(tmp_path, ["a=2", "seed=0"], "pruned", val__loss=99.0)
    [group] = grouped(read_jobs(tmp_path), ["a"])
    assert (group.keys, group.count, group.metrics["val/loss"].mean) == ({"a": "1"}, 1, 1.0)


def test_a_key_that_no_job_sets_is_refused(tmp_path: Path):
    make_job(tmp_path, ["a=1"], val__loss=1.0)
    with pytest.raises(UserError, match="--group-by b: no job sets it; set by some: a"):
        grouped(read_jobs(tmp_path), ["b"])


def test_values_are_sorted_by_size_and_words_by_themselves():
    assert sorted(["16", "2", "8"], key=in_order) == ["2", "8", "16"]
    assert sorted(["[400,200]", "[50]", "[400]"], key=in_order) == ["[50]", "[400]", "[400,200]"]
    assert sorted(["1e-2", "1e-4", "0.001"], key=in_order) == ["1e-4", "0.001", "1e-2"]
    assert sorted(["relu", "gelu"], key=in_order) == ["gelu", "relu"]
