import shlex
from math import isnan, sqrt
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sweep.sweeps import make_job, make_sweep
from vae_exp.errors import UserError
from vae_exp.sweep.aggregate import (
    SeedGroup,
    best_jobs,
    combine_settings,
    default_keys,
    estimate,
    group_seeds,
    meaning,
    means_over_seeds,
    natural_sort_key,
    select_metric,
    sort_by_metric,
    to_cli_overrides,
)
from vae_exp.sweep.job_records import read_jobs


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20))
def test_mean_and_standard_error_are_those_of_numpy(values: list[float]):
    result = estimate(values)
    assert result.mean == pytest.approx(np.mean(values), abs=1e-6)
    assert result.error == pytest.approx(np.std(values, ddof=1) / sqrt(len(values)), abs=1e-6)


def test_a_single_job_tells_nothing_of_its_error():
    assert isnan(estimate([1.5]).error)


def test_jobs_that_differ_in_their_seed_alone_are_one_group(tmp_path: Path):
    jobs = read_jobs(make_sweep(tmp_path))
    assert set(default_keys(jobs)) == {"model.latent_dim", "model.hidden_dims"}
    groups = group_seeds(jobs, default_keys(jobs))
    assert len(groups) == 6
    assert {group.count for group in groups} == {2}
    group = next(group for group in groups if group.keys["model.latent_dim"] == "2")
    values = [
        job.metrics["val/elbo"] for job in jobs if all(job.keys[key] == value for key, value in group.keys.items())
    ]
    assert group.metrics["val/elbo"].mean == pytest.approx(np.mean(values))


SEEDS = {("1", "a"): [1.0, 2.0, 6.0], ("2", "a"): [4.0, 5.0], ("3", "b"): [7.0, 9.0]}


def _settings() -> list[SeedGroup]:
    return [
        SeedGroup(
            {"beta": beta, "model": model},
            len(values),
            {"val/nll": estimate(values), "val/elbo": estimate(values)},
        )
        for (beta, model), values in SEEDS.items()
    ]


def test_a_number_is_the_same_setting_however_it_is_written(tmp_path: Path):
    for number, text in enumerate(("1e-3", "0.001", "0.0010", "1e-2")):
        make_job(tmp_path, [f"optimizer.lr={text}", f"seed={number}"])
    groups = group_seeds(read_jobs(tmp_path), ["optimizer.lr"])
    assert {group.keys["optimizer.lr"]: group.count for group in groups} == {"0.001": 3, "0.01": 1}


def test_the_mean_over_other_keys_is_that_of_the_settings_whatever_their_seeds():
    """Its error is the spread of that very number when every seed is drawn anew, settings being fixed."""
    a, b = combine_settings(_settings(), ["model"], "mean", "val/nll")
    nll = a.metrics["val/nll"]
    assert (a.keys, a.count, nll.count) == ({"model": "a"}, 5, 5)
    assert nll.mean == pytest.approx((3.0 + 4.5) / 2)
    source = np.random.default_rng(0)
    draws = [
        source.normal(0, np.std(SEEDS[beta, "a"], ddof=1), (200_000, len(SEEDS[beta, "a"]))).mean(axis=1)
        for beta in ("1", "2")
    ]
    assert nll.error == pytest.approx(np.mean(draws, axis=0).std(), rel=0.01)
    assert b.metrics["val/nll"] == estimate(SEEDS["3", "b"])


def test_the_best_over_other_keys_is_one_setting_with_all_its_metrics():
    a, _ = combine_settings(_settings(), ["model"], "best", "val/nll")
    assert (a.count, a.metrics["val/nll"], a.metrics["val/elbo"]) == (5, *[estimate(SEEDS["1", "a"])] * 2)
    [whole] = combine_settings(_settings(), [], "best", "val/elbo")
    assert whole.metrics["val/nll"].mean == 8.0


def test_what_a_number_is_taken_over_is_told():
    captions = [meaning(_settings(), keys, "best", "val/nll") for keys in (["beta", "model"], ["model"], [])]
    assert captions == [
        "mean over 2 to 3 seeds",
        "mean over 2 to 3 seeds; best over beta",
        "mean over 2 to 3 seeds; best over beta, model",
    ]
    assert meaning([SeedGroup({"a": "1"}, 1, {"m": estimate([1.0])})], ["a"], "mean", "m") == "one seed each"


def test_only_completed_jobs_count(tmp_path: Path):
    make_job(tmp_path, ["a=1", "seed=0"], val__loss=1.0)
    make_job(tmp_path, ["a=1", "seed=1"], "failed", val__loss=99.0)
    make_job(tmp_path, ["a=2", "seed=0"], "pruned", val__loss=99.0)
    [group] = group_seeds(read_jobs(tmp_path), ["a"])
    assert (group.keys, group.count, group.metrics["val/loss"].mean) == ({"a": "1"}, 1, 1.0)


def test_a_key_that_no_job_sets_is_refused(tmp_path: Path):
    make_job(tmp_path, ["a=1"], val__loss=1.0)
    with pytest.raises(UserError, match="--group-by b: no job sets it; set by some: a"):
        group_seeds(read_jobs(tmp_path), ["b"])


def test_values_are_sorted_by_size_and_words_by_themselves():
    assert sorted(["16", "2", "8"], key=natural_sort_key) == ["2", "8", "16"]
    assert sorted(["[400,200]", "[50]", "[400]"], key=natural_sort_key) == ["[50]", "[400]", "[400,200]"]
    assert sorted(["1e-2", "1e-4", "0.001"], key=natural_sort_key) == ["1e-4", "0.001", "1e-2"]
    assert sorted(["relu", "gelu"], key=natural_sort_key) == ["gelu", "relu"]


def test_the_best_job_is_told_in_words_that_can_be_pasted(tmp_path: Path):
    overrides = ["+a=[1,2]", "seed=0", "data.root=/x", "sweep.name=x", "tracker=none", "hydra/launcher=pool"]
    make_job(tmp_path, overrides, val__elbo=-5.0)
    make_job(tmp_path, ["+a=[3]", "seed=0"], val__elbo=-7.0)
    make_job(tmp_path, ["+a=[4]", "seed=0"], "failed", val__elbo=-1.0)
    [best], metrics = best_jobs(read_jobs(tmp_path), [])
    assert metrics == ["val/elbo"]
    assert shlex.split(to_cli_overrides(best)) == ["+a=[1,2]", "seed=0", "data.root=/x"]


@pytest.mark.parametrize("status", ["failed", "diverged", "killed", "interrupted", "pruned", None])
def test_what_did_not_complete_is_never_first(tmp_path: Path, status: str | None):
    make_job(tmp_path, ["a=1"], val__elbo=-9.0)
    make_job(tmp_path, ["a=2"])
    path = make_job(tmp_path, ["a=3"], status, val__elbo=-1.0)
    if status is None:
        (path / "metrics.jsonl").write_text('{"epoch": 1, "val/elbo": -1.0}\n')
    jobs = sort_by_metric(read_jobs(tmp_path), "val/elbo")
    assert [job.keys["a"] for job in jobs] == ["1", "2", "3"]
    assert jobs[2].metrics["val/elbo"] == -1.0


def test_the_words_of_a_job_of_an_experiment_that_sweeps_are_those_of_one_run(tmp_path: Path):
    make_job(tmp_path, ["experiment=search", "seed=0"], val__elbo=-5.0)
    [best], _ = best_jobs(read_jobs(tmp_path), [])
    assert to_cli_overrides(best) == "experiment=search seed=0 hydra.mode=RUN"


def test_over_seeds_the_best_mean_wins_and_no_seed_is_told(tmp_path: Path):
    for name, seed, elbo in (("a", 0, -1.0), ("a", 1, -9.0), ("b", 0, -4.0), ("b", 1, -4.0)):
        make_job(tmp_path, [f"m={name}", f"seed={seed}"], val__elbo=elbo, **({"val__nll": 3.0} if seed else {}))
    jobs = read_jobs(tmp_path)
    [single], _ = best_jobs(jobs, ["val/elbo"])
    [best], _ = best_jobs(means_over_seeds(jobs), ["val/elbo"])
    assert (to_cli_overrides(single), to_cli_overrides(best)) == ("m=a seed=0", "m=b")
    assert best.metrics == {"val/elbo": -4.0}
    assert best.name.endswith(" and 1 more")


def test_over_seeds_neither_the_order_of_overrides_nor_the_tracker_counts(tmp_path: Path):
    for number, (words, elbo) in enumerate(
        (
            (["m=a", "seed=0"], -1.0),
            (["seed=1", "m=a"], -9.0),
            (["m=a", "seed=2", "tracker=none"], -9.0),
            (["m=b", "seed=0"], -4.0),
        )
    ):
        make_job(tmp_path, [*words, f"sweep.trial={{number:{number}}}"], val__elbo=elbo)
    [best], _ = best_jobs(means_over_seeds(read_jobs(tmp_path)), ["val/elbo"])
    assert to_cli_overrides(best) == "m=b"


def test_of_several_metrics_the_front_is_told(tmp_path: Path):
    for name, nll, units in (("a", 90, 4), ("b", 88, 2), ("c", 91, 3), ("d", 85, 1), ("e", 90, 4)):
        make_job(tmp_path, [f"m={name}"], val__nll=nll, val__active_units=units)
    front, _ = best_jobs(read_jobs(tmp_path), ["val/nll", "val/active_units"])
    assert [job.keys["m"] for job in front] == ["d", "b", "a", "e"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_metric_that_is_not_finite_neither_wins_nor_upsets_the_order(tmp_path: Path, value: float):
    for name, nll in (("a", 2.0), ("b", value), ("c", 1.0)):
        make_job(tmp_path, [f"m={name}"], val__nll=nll, val__rate=3.0)
    jobs = read_jobs(tmp_path)
    assert [job.keys["m"] for job in best_jobs(jobs, ["val/nll"])[0]] == ["c"]
    assert [job.keys["m"] for job in best_jobs(jobs, ["val/nll", "val/rate"])[0]] == ["c"]


def test_a_job_whose_last_line_is_not_finite_is_read(tmp_path: Path):
    job = make_job(tmp_path, ["m=a"], None)
    (job / "metrics.jsonl").write_text('{"epoch": NaN, "val/nll": Infinity}\n')
    [record] = read_jobs(tmp_path)
    assert (record.epochs, record.metrics) == (0, {})


def test_without_completed_jobs_there_is_no_best(tmp_path: Path):
    make_job(tmp_path, ["a=1"], "failed")
    with pytest.raises(UserError, match="no job of the sweep has completed yet"):
        best_jobs(read_jobs(tmp_path), [])


def test_an_unknown_metric_is_refused_with_those_that_are_known(tmp_path: Path):
    make_job(tmp_path, ["a=1"], val__loss=1.0)
    with pytest.raises(UserError, match="--metric val/los: no job has it; known here: val/loss"):
        select_metric(read_jobs(tmp_path), "val/los")
