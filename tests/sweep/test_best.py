import shlex
from pathlib import Path

import pytest

from tests.sweep.sweeps import make_job
from vae_exp.errors import UserError
from vae_exp.sweep.best import as_words, best_jobs, means_over_seeds
from vae_exp.sweep.job_records import read_jobs
from vae_exp.sweep.metrics import best_first, chosen_metric, direction


def test_the_best_job_is_told_in_words_that_can_be_pasted(tmp_path: Path):
    words = ["+a=[1,2]", "seed=0", "data.root=/x", "sweep.name=x", "tracker=none", "hydra/launcher=pool"]
    make_job(tmp_path, words, val__elbo=-5.0)
    make_job(tmp_path, ["+a=[3]", "seed=0"], val__elbo=-7.0)
    make_job(tmp_path, ["+a=[4]", "seed=0"], "failed", val__elbo=-1.0)
    [best], metrics = best_jobs(read_jobs(tmp_path), [])
    assert metrics == ["val/elbo"]
    assert shlex.split(as_words(best)) == ["+a=[1,2]", "seed=0", "data.root=/x"]


@pytest.mark.parametrize("status", ["failed", "diverged", "killed", "interrupted", "pruned", None])
def test_what_did_not_complete_is_never_first(tmp_path: Path, status: str | None):
    make_job(tmp_path, ["a=1"], val__elbo=-9.0)
    make_job(tmp_path, ["a=2"])
    path = make_job(tmp_path, ["a=3"], status, val__elbo=-1.0)
    if status is None:
        (path / "metrics.jsonl").write_text('{"epoch": 1, "val/elbo": -1.0}\n')
    jobs = best_first(read_jobs(tmp_path), "val/elbo")
    assert [job.keys["a"] for job in jobs] == ["1", "2", "3"]
    assert jobs[2].metrics["val/elbo"] == -1.0


def test_the_words_of_a_job_of_an_experiment_that_sweeps_are_those_of_one_run(tmp_path: Path):
    make_job(tmp_path, ["experiment=search", "seed=0"], val__elbo=-5.0)
    [best], _ = best_jobs(read_jobs(tmp_path), [])
    assert as_words(best) == "experiment=search seed=0 hydra.mode=RUN"


def test_over_seeds_the_best_mean_wins_and_no_seed_is_told(tmp_path: Path):
    for name, seed, elbo in (("a", 0, -1.0), ("a", 1, -9.0), ("b", 0, -4.0), ("b", 1, -4.0)):
        make_job(tmp_path, [f"m={name}", f"seed={seed}"], val__elbo=elbo, **({"val__nll": 3.0} if seed else {}))
    jobs = read_jobs(tmp_path)
    [single], _ = best_jobs(jobs, ["val/elbo"])
    [best], _ = best_jobs(means_over_seeds(jobs), ["val/elbo"])
    assert (as_words(single), as_words(best)) == ("m=a seed=0", "m=b")
    assert best.metrics == {"val/elbo": -4.0}
    assert best.name.endswith(" and 1 more")


def test_of_several_metrics_the_front_is_told(tmp_path: Path):
    for name, nll, units in (("a", 90, 4), ("b", 88, 2), ("c", 91, 3), ("d", 85, 1), ("e", 90, 4)):
        make_job(tmp_path, [f"m={name}"], val__nll=nll, val__active_units=units)
    found, _ = best_jobs(read_jobs(tmp_path), ["val/nll", "val/active_units"])
    assert [job.keys["m"] for job in found] == ["d", "b", "a", "e"]


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
    [found] = read_jobs(tmp_path)
    assert (found.epochs, found.metrics) == (0, {})


def test_without_completed_jobs_there_is_no_best(tmp_path: Path):
    make_job(tmp_path, ["a=1"], "failed")
    with pytest.raises(UserError, match="no job of the sweep has completed yet"):
        best_jobs(read_jobs(tmp_path), [])


def test_an_unknown_metric_is_refused_with_those_that_are_known(tmp_path: Path):
    make_job(tmp_path, ["a=1"], val__loss=1.0)
    with pytest.raises(UserError, match="--metric val/los: no job has it; known here: val/loss"):
        chosen_metric(read_jobs(tmp_path), "val/los")


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("val/elbo", "maximize"),
        ("test/nll", "minimize"),
        ("val/active_units", "maximize"),
        ("val/loss", "minimize"),
    ],
)
def test_which_way_a_metric_is_better(metric: str, expected: str):
    assert direction(metric) == expected
