from math import isnan, sqrt
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sweep.sweeps import make_job, make_sweep
from vae_exp.errors import UserError
from vae_exp.sweep.grouping import default_keys, estimate, grouped, in_order
from vae_exp.sweep.jobs import read_jobs


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
