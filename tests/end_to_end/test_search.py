"""`hydra/sweeper=optuna` as a user sees it."""

import re
import time
from pathlib import Path

import psutil
import pytest
from optuna.trial import TrialState

from tests.conftest import start
from tests.readers import read_results
from vae_exp.errors import quantity
from vae_exp.sweep.manifest import STUDY_FILE
from vae_exp.sweep.search.study import load_study

SEARCH = (
    "--multirun", "hydra/sweeper=optuna", "data=digits", "tracker=none", "evaluator=[]", "sweep.name=s",
    "model.latent_dim=int(interval(2,8))", "optimizer.lr=tag(log,interval(1e-4,1e-2))",
)  # fmt: skip
POOL = ("hydra/launcher=pool", "hydra.launcher.slots=2")


def trials(folder: Path):
    return load_study(folder / "multirun" / "s" / STUDY_FILE).get_trials()


def results(folder: Path) -> dict[str, dict]:
    return read_results(folder / "multirun" / "s")


pytestmark = pytest.mark.timeout(600)


@pytest.mark.slow
def test_a_killed_search_goes_on_and_ends_with_exactly_as_many_trials(command, tmp_path: Path):
    overrides = (*SEARCH, *POOL, "hydra.sweeper.n_trials=4", "trainer.epochs=20", "checkpoint.every_n_epochs=1")
    process = start("train", *overrides, cwd=tmp_path)
    until = time.monotonic() + 240
    while len(list((tmp_path / "multirun").glob("s/*/checkpoints/last.pt"))) < 3:
        assert time.monotonic() < until
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    psutil.wait_procs(children, timeout=60)
    started = {path.name for path in (tmp_path / "multirun" / "s").glob("*_*") if path.is_dir()}
    again = command("train", *overrides)
    assert again.code == 0, again.out + again.err
    assert [trial.state for trial in trials(tmp_path)] == [TrialState.COMPLETE] * 4
    jobs = results(tmp_path)
    assert len(jobs) == 4
    assert started <= set(jobs)
    assert {result["status"] for result in jobs.values()} == {"completed"}
    assert all(re.fullmatch(r"latent_dim-\d_lr-[\d.e-]+_[0-9a-f]{8}", name) for name in jobs)
    for trial in trials(tmp_path):
        assert list(trial.intermediate_values) == list(range(1, 21))


@pytest.mark.slow
def test_trials_are_pruned_and_the_table_says_so(command, tmp_path: Path):
    pruner = ("hydra.sweeper.pruner.name=median", "+hydra.sweeper.pruner.n_startup_trials=2")
    finished = command("train", *SEARCH, *pruner, "hydra.sweeper.n_trials=6", "trainer.epochs=8")
    assert finished.code == 0, finished.err
    states = [trial.state for trial in trials(tmp_path)]
    assert states.count(TrialState.PRUNED) > 0
    assert states.count(TrialState.PRUNED) + states.count(TrialState.COMPLETE) == 6
    pruned = [result for result in results(tmp_path).values() if result["status"] == "pruned"]
    assert len(pruned) == states.count(TrialState.PRUNED)
    assert all(result["epochs"] < 8 for result in pruned)
    assert "pruned" in finished.out


@pytest.mark.slow
def test_a_trial_that_fails_is_marked_and_the_search_goes_on(command, tmp_path: Path):
    search = [override for override in SEARCH if not override.startswith("optimizer.lr")]
    finished = command(
        "train", *search, "trainer.batch_size=choice(100,5000)", "hydra.sweeper.n_trials=6", "trainer.epochs=1",
        "hydra.sweeper.batch_size=3",
    )  # fmt: skip
    assert finished.code == 1
    failed = sum(trial.state is TrialState.FAIL for trial in trials(tmp_path))
    assert f"{quantity(failed, 'trial')} failed; failed trials are not repeated" in finished.err
    states = {trial.params["trainer.batch_size"]: trial.state for trial in trials(tmp_path)}
    assert states == {"100": TrialState.COMPLETE, "5000": TrialState.FAIL}
    assert len(trials(tmp_path)) == 6


@pytest.mark.slow
def test_a_trial_that_is_proposed_again_while_it_runs_shares_its_end(command, tmp_path: Path):
    search = [override for override in SEARCH if not override.startswith(("optimizer.lr", "model.latent_dim"))]
    finished = command(
        "train", *search, *POOL, "model.latent_dim=choice(2,2)", "seed=choice(0,1)", "hydra.sweeper.n_trials=6",
        "trainer.epochs=3",
    )  # fmt: skip
    assert finished.code == 0, finished.err
    assert [trial.state for trial in trials(tmp_path)] == [TrialState.COMPLETE] * 6
    assert len({tuple(trial.values) for trial in trials(tmp_path)}) == len(results(tmp_path)) == 2


@pytest.mark.slow
def test_a_condition_of_the_command_line_holds(command, tmp_path: Path):
    finished = command(
        "train", *SEARCH[:-2], "hydra.sweeper.conditions={loss.beta: {loss: [beta_vae]}}",
        "loss=choice(elbo,beta_vae)", "loss.beta=interval(0.5,4)", "hydra.sweeper.n_trials=4", "trainer.epochs=1",
    )  # fmt: skip
    assert finished.code == 0, finished.err
    params = [trial.params for trial in trials(tmp_path)]
    assert {values["loss"] for values in params} == {"elbo", "beta_vae"}
    assert all(("loss.beta" in values) == (values["loss"] == "beta_vae") for values in params)


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["hydra.sweeper.batch_size=0"], "hydra.sweeper.batch_size=0 must be a whole number of at least 1"),
        (["model.latnt_dim=choice(2,3)"], "did you mean model.latent_dim?"),
        (["hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials=0 must be a whole number of at least 1"),
        (["hydra.sweeper.objectives=[test/nll]"], "never sees the test images"),
    ],
)
def test_bad_searches_are_refused_before_any_job(command, tmp_path: Path, overrides: list[str], message: str):
    finished = command("train", *SEARCH, *overrides)
    assert finished.code == 1
    assert message in finished.err
    assert not list(tmp_path.glob("multirun/s/*/"))
