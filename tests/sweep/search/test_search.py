"""Searches over a formula instead of training."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from hydra.core.utils import JobReturn, JobStatus
from optuna.trial import TrialState

from vae_exp.errors import UserError
from vae_exp.storage.run_directory import RunDirectory
from vae_exp.sweep.manifest import STUDY_FILE
from vae_exp.sweep.search.loop import run_in_batches
from vae_exp.sweep.search.pruning import TrialReporter
from vae_exp.sweep.search.space import Space, parsed_space
from vae_exp.sweep.search.study import SearchConfig, TrialLease, TrialScheduler, load_study, with_directions
from vae_exp.sweep.session import sweep_session

SPACE = parsed_space(["data=digits", "x=interval(-5,5)", "y=int(interval(0,10))"], {})


def settings(**given: object) -> SearchConfig:
    objectives = {"val/elbo": "maximize"}
    sampler, pruner = {"name": "tpe", "seed": 0}, {"name": "none"}
    defaults = {"n_trials": 6, "objectives": objectives, "sampler": sampler, "pruner": pruner}
    return SearchConfig(**(defaults | given))


def job(folder: Path, lease: TrialLease, status: str = "completed", **metrics: float) -> RunDirectory:
    directory = RunDirectory(folder / str(lease.number))
    directory.overrides.parent.mkdir(parents=True, exist_ok=True)
    directory.overrides.write_text(yaml.safe_dump(lease.overrides))
    named = {key.replace("__", "/"): value for key, value in metrics.items()}
    directory.result.write_text(json.dumps({"status": status, "metrics": named}))
    return directory


def values(lease: TrialLease) -> tuple[float, int]:
    point = dict(override.split("=") for override in lease.overrides if override.startswith(("x=", "y=")))
    return float(point["x"]), int(point["y"])


def lease_from(scheduler: TrialScheduler) -> TrialLease:
    lease = scheduler.lease()
    assert lease is not None
    return lease


def finish(scheduler: TrialScheduler, folder: Path, lease: TrialLease) -> None:
    x, y = values(lease)
    scheduler.tell(lease, job(folder, lease, val__elbo=-((x - 1) ** 2) - (y - 3) ** 2))


def states(folder: Path) -> list[TrialState]:
    return [trial.state for trial in load_study(folder / STUDY_FILE).get_trials()]


def test_a_search_ends_with_exactly_as_many_trials_however_often_it_is_started(tmp_path: Path):
    for _ in range(4):
        scheduler = TrialScheduler(tmp_path, settings(), SPACE)
        for _ in range(2):
            if (lease := scheduler.lease()) is not None:
                finish(scheduler, tmp_path, lease)
    assert states(tmp_path) == [TrialState.COMPLETE] * 6
    assert TrialScheduler(tmp_path, settings(), SPACE).lease() is None
    assert lease_from(TrialScheduler(tmp_path, settings(n_trials=7), SPACE)).number == 6


def test_what_is_proposed_does_not_depend_on_interruptions(tmp_path: Path):
    def proposals(folder: Path, *, restarted: bool) -> list[list[str]]:
        folder.mkdir()
        scheduler, proposed = TrialScheduler(folder, settings(n_trials=14), SPACE), []
        while (lease := scheduler.lease()) is not None:
            proposed.append(lease.overrides[:3])
            finish(scheduler, folder, lease)
            if restarted:
                scheduler = TrialScheduler(folder, settings(n_trials=14), SPACE)
        return proposed

    first = proposals(tmp_path / "a", restarted=False)
    assert len(first) == 14
    assert len({tuple(proposal) for proposal in first}) == 14
    assert proposals(tmp_path / "b", restarted=True) == first


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_a_kill_before_the_values_are_drawn_changes_none_of_them(tmp_path: Path, monkeypatch, sampler: str):
    space = parsed_space(["x=choice(1,2)", "y=choice(3,4)"], {})

    def first(folder: Path) -> list[str]:
        options = settings(n_trials=4, sampler={"name": sampler} | ({} if sampler == "grid" else {"seed": 0}))
        return lease_from(TrialScheduler(folder, options, space)).overrides[:2]

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(Space, "suggest", lambda *arguments: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            first(tmp_path / "a")
    assert first(tmp_path / "a") == first(tmp_path / "b")


def test_a_line_that_a_full_disk_has_cut_is_written_again(tmp_path: Path):
    scheduler = TrialScheduler(tmp_path, settings(n_trials=3), SPACE)
    finish(scheduler, tmp_path, lease_from(scheduler))
    journal = tmp_path / STUDY_FILE
    with journal.open("ab") as file:
        file.write(b'{"op_code": 4, "worker')
    for number in (1, 2):
        scheduler = TrialScheduler(tmp_path, settings(n_trials=3), SPACE)
        lease = lease_from(scheduler)
        assert lease.number == number
        finish(scheduler, tmp_path, lease)
    assert states(tmp_path) == [TrialState.COMPLETE] * 3


def test_a_trial_whose_owner_has_died_is_taken_up_and_one_whose_owner_lives_is_not(tmp_path: Path):
    scheduler = TrialScheduler(tmp_path, settings(n_trials=2), SPACE)
    mine = lease_from(scheduler)
    other = TrialScheduler(tmp_path, settings(n_trials=2), SPACE)
    second = lease_from(other)
    assert second.number == 1
    assert other.lease() is None
    scheduler.release(mine)  # as the death of its process would
    again = lease_from(other)
    assert (again.number, again.overrides) == (0, mine.overrides)


@pytest.mark.slow
def test_processes_that_search_together_share_the_trials(tmp_path: Path):
    program = (
        "import sys; from pathlib import Path; from tests.sweep.search.test_search import *;"
        "folder = Path(sys.argv[1]); scheduler = TrialScheduler(folder, settings(n_trials=20), SPACE)\n"
        "while (lease := scheduler.lease()) is not None: finish(scheduler, folder, lease)"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], cwd=Path(__file__).parents[3])
        for _ in range(2)
    ]
    assert [process.wait(timeout=100) for process in processes] == [0, 0]
    assert states(tmp_path) == [TrialState.COMPLETE] * 20


def test_failed_and_pruned_trials_are_marked_so(tmp_path: Path):
    scheduler = TrialScheduler(tmp_path, settings(n_trials=4), SPACE)
    for status, metrics in (("diverged", {}), ("pruned", {"val__elbo": 1.0}), ("completed", {"val__elbo": 2.0})):
        lease = lease_from(scheduler)
        scheduler.tell(lease, job(tmp_path, lease, status, **metrics))
    lease = lease_from(scheduler)
    scheduler.tell(lease, None)
    assert states(tmp_path) == [TrialState.FAIL, TrialState.PRUNED, TrialState.COMPLETE, TrialState.FAIL]


def test_several_objectives_have_a_value_each(tmp_path: Path):
    objectives = {"val/nll": "minimize", "val/active_units": "maximize"}
    scheduler = TrialScheduler(tmp_path, settings(objectives=objectives), SPACE)
    lease = lease_from(scheduler)
    scheduler.tell(lease, job(tmp_path, lease, val__nll=90.0, val__active_units=4))
    assert load_study(tmp_path / STUDY_FILE).best_trials[0].values == [90.0, 4.0]


def test_an_objective_that_jobs_do_not_report_is_named(tmp_path: Path):
    scheduler = TrialScheduler(tmp_path, settings(objectives={"val/nll": "minimize"}), SPACE)
    lease = lease_from(scheduler)
    with pytest.raises(UserError, match=r"names val/nll, which jobs do not report; known: val/elbo"):
        scheduler.tell(lease, job(tmp_path, lease, val__elbo=1.0))


@pytest.mark.parametrize(
    ("objective", "overrides", "message"),
    [
        ("minimize", ["data=digits", "a=1,2"], "is of a search for"),
        ("maximize", ["data=digits", "a=1,2,3"], "has searched a over other values"),
        ("maximize", ["data=mnist", "a=1,2"], "is of a search with data=digits, not with data=mnist"),
    ],
)
def test_the_journal_of_another_search_is_refused(
    tmp_path: Path, objective: str, overrides: list[str], message: str
):
    lease_from(TrialScheduler(tmp_path, settings(), parsed_space(["data=digits", "a=1,2"], {})))
    with pytest.raises(UserError, match=message):
        TrialScheduler(tmp_path, settings(objectives={"val/elbo": objective}), parsed_space(overrides, {}))


def test_a_key_that_was_searched_under_an_earlier_name_is_named(tmp_path: Path):
    lease_from(TrialScheduler(tmp_path, settings(), parsed_space(["trainer.gradient_clip=1,2"], {})))
    with pytest.raises(UserError, match=r"searched trainer\.gradient_clip, which is trainer\.max_grad_norm now"):
        TrialScheduler(tmp_path, settings(), parsed_space(["trainer.max_grad_norm=1,2"], {}))


@pytest.mark.parametrize("text", ["nonsense\n", '{"op_code": 99}\n', "[]\n"])
def test_a_file_that_is_no_journal_is_refused(tmp_path: Path, text: str):
    (tmp_path / STUDY_FILE).write_text(text)
    with pytest.raises(UserError, match="is not the journal of a search"):
        TrialScheduler(tmp_path, settings(), SPACE)


def test_directions_follow_from_the_metrics():
    directions = with_directions(["val/elbo", "val/nll", "val/active_units", "val/loss"], None)
    assert [*directions.values()] == ["maximize", "minimize", "maximize", "minimize"]
    with pytest.raises(UserError, match="must have one for each"):
        with_directions(["val/elbo", "val/nll"], ["maximize"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"objectives": {}}, "objectives is empty"),
        ({"objectives": {"val/elbo": "up"}}, "must be minimize or maximize"),
        ({"objectives": {"test/nll": "minimize"}}, "never sees the test images; say val/nll"),
        ({"pruner": {"name": "best"}}, r"pruner\.name=best must be one of none, median"),
        ({"pruner": {"name": "median", "n_warm": 1}}, r"pruner\.n_warm: there is no such option; median takes"),
        (
            {"pruner": {"name": "median"}, "objectives": {"val/nll": "minimize", "val/elbo": "maximize"}},
            "prunes by one objective",
        ),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, object], message: str):
    with pytest.raises(UserError, match=message):
        settings(**wrong)


def test_an_unknown_sampler_is_refused_before_anything_is_written(tmp_path: Path):
    with pytest.raises(UserError, match=r"sampler\.name=best must be one of tpe, cmaes, gp, random, grid, qmc"):
        TrialScheduler(tmp_path, settings(sampler={"name": "best"}), SPACE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["tpe", "cmaes", "gp", "random", "qmc"])
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_every_sampler_finds_something(tmp_path: Path, name: str):
    scheduler = TrialScheduler(tmp_path, settings(n_trials=15, sampler={"name": name, "seed": 0}), SPACE)
    while (lease := scheduler.lease()) is not None:
        finish(scheduler, tmp_path, lease)
    study = load_study(tmp_path / STUDY_FILE)
    assert len(study.trials) == 15
    assert study.best_value > -15  # the mean over the space is about -26


def test_a_grid_visits_every_point_once_however_often_it_is_started(tmp_path: Path):
    space = parsed_space(["x=choice(0,1,2)", "y=choice(0,1)"], {})
    points = []
    for _ in range(6):
        scheduler = TrialScheduler(tmp_path, settings(sampler={"name": "grid", "seed": 0}), space)
        lease = lease_from(scheduler)
        points.append(tuple(lease.overrides[:2]))
        scheduler.tell(lease, job(tmp_path, lease, val__elbo=1.0))
    assert len(set(points)) == 6


def test_a_job_reports_its_epochs_and_ends_where_others_were_better(tmp_path: Path):
    pruner = {"name": "median", "n_startup_trials": 1, "n_warmup_steps": 2}
    scheduler = TrialScheduler(tmp_path, settings(pruner=pruner), SPACE)
    for level, expected in ((-1.0, [False] * 5), (-9.0, [False, True])):
        lease = lease_from(scheduler)
        reporter = TrialReporter(tmp_path / STUDY_FILE, lease.number)
        stops = []
        for epoch in range(1, 6):
            stops.append(reporter.stop(epoch, {"val/elbo": level}))
            if stops[-1]:
                break
        assert stops == expected
        resumed = TrialReporter(tmp_path / STUDY_FILE, lease.number)
        resumed.stop(1, {"val/elbo": level})  # what was reported is not reported twice
        scheduler.tell(lease, job(tmp_path, lease, "pruned" if stops[-1] else "completed", val__elbo=level))
    assert states(tmp_path) == [TrialState.COMPLETE, TrialState.PRUNED]


def test_epochs_without_the_objective_are_passed_over(tmp_path: Path):
    scheduler = TrialScheduler(tmp_path, settings(pruner={"name": "median"}), SPACE)
    lease = lease_from(scheduler)
    reporter = TrialReporter(tmp_path / STUDY_FILE, lease.number)
    assert not reporter.stop(1, {"val/loss": 1.0})
    assert not reporter.stop(2, {"val/elbo": float("nan")})
    assert load_study(tmp_path / STUDY_FILE).get_trials()[0].intermediate_values == {}


def test_a_job_that_can_be_resumed_is_not_failed_and_not_leased_again_by_the_same_process(tmp_path: Path):
    scheduler = TrialScheduler(tmp_path, settings(n_trials=2), SPACE)
    lease = lease_from(scheduler)
    assert not scheduler.tell(lease, job(tmp_path, lease, "killed"))
    assert states(tmp_path) == [TrialState.RUNNING]
    other = lease_from(scheduler)
    assert other.number == 1
    scheduler.release(lease)
    again = lease_from(scheduler)
    assert (again.number, again.overrides) == (lease.number, lease.overrides)


def test_a_trial_whose_job_a_cluster_has_killed_is_resumed(tmp_path: Path):
    """As the launchers of Slurm and Ray return it: without a config."""

    def launch(jobs: list[list[str]], first: int) -> list[JobReturn]:
        return [JobReturn(status=JobStatus.FAILED)]

    scheduler = TrialScheduler(tmp_path, settings(n_trials=1), SPACE)
    with sweep_session() as session:
        run_in_batches(scheduler, SimpleNamespace(launch=launch), 1)
        assert not session.print_report()
    assert states(tmp_path) == [TrialState.RUNNING]
    assert lease_from(scheduler).number == 0


@pytest.mark.parametrize(
    ("status", "metrics", "state"),
    [
        ("completed", {"val__elbo": -2.0}, TrialState.COMPLETE),
        ("pruned", {"val__elbo": -9.0}, TrialState.PRUNED),
        ("failed", {}, TrialState.FAIL),
    ],
)
def test_a_proposal_that_occurred_before_gets_the_result_of_its_first_trial(
    tmp_path: Path, status: str, metrics: dict[str, float], state: TrialState
):
    scheduler = TrialScheduler(tmp_path, settings(n_trials=4), parsed_space(["x=choice(1)"], {}))
    lease = lease_from(scheduler)
    assert scheduler.lease() is None  # the first one is running; it has asked for all trials
    scheduler.tell(lease, job(tmp_path, lease, status, **metrics))
    assert states(tmp_path) == [state] * 4
    assert TrialScheduler(tmp_path, settings(n_trials=6), parsed_space(["x=choice(1)"], {})).lease() is None
    trials = load_study(tmp_path / STUDY_FILE).get_trials()
    assert [(trial.state, trial.values) for trial in trials] == [(state, trials[0].values)] * 6


def test_a_trial_of_an_earlier_version_and_one_without_values_are_resumed(tmp_path: Path):
    scheduler = TrialScheduler(tmp_path, settings(), SPACE)
    study = load_study(tmp_path / STUDY_FILE)
    trial = study.ask()
    overrides = SPACE.suggest(trial)
    trial.set_user_attr("overrides", [*overrides, "sweep.trial={journal:'j',number:0,prune:true}"])
    study.ask()
    stored, drawn = lease_from(scheduler), lease_from(scheduler)
    assert (stored.number, stored.overrides[:-1]) == (0, overrides)
    assert stored.overrides[-1].startswith("sweep.trial={storage:")
    assert drawn.number == 1
    assert [override.partition("=")[0] for override in drawn.overrides] == ["data", "x", "y", "sweep.trial"]


def test_a_resumed_trial_has_its_values_and_the_other_overrides_of_the_command(tmp_path: Path):
    def scheduler(*fixed: str) -> TrialScheduler:
        return TrialScheduler(tmp_path, settings(n_trials=1), parsed_space(["data=mnist", *fixed, *searched], {}))

    searched = ["x=interval(-5,5)"]
    first = scheduler("data.root=/old")
    lease = lease_from(first)
    first.release(lease)
    searched.append("z=choice(1,2)")
    resumed = lease_from(scheduler("data.root=/new", "sweep.checked=true"))
    assert resumed.overrides[:-1] == ["data=mnist", "data.root=/new", "sweep.checked=true", lease.overrides[2]]


def test_a_trial_with_a_key_that_the_command_does_not_search_waits(tmp_path: Path):
    first = TrialScheduler(tmp_path, settings(n_trials=1), SPACE)
    first.release(lease_from(first))
    narrower = TrialScheduler(
        tmp_path, settings(n_trials=1), parsed_space(["data=digits", "x=interval(-5,5)"], {})
    )
    assert (narrower.lease(), narrower.unfinished()) == (None, 0)
    wider = TrialScheduler(tmp_path, settings(n_trials=1), SPACE)
    assert wider.unfinished() == 1
    assert wider.lease() is not None


def test_a_trial_of_a_wider_search_lends_its_result_to_none_of_a_narrower_one(tmp_path: Path):
    wider = parsed_space(["data=digits", "x=choice(1,2)", "y=choice(1,2)"], {})
    for _ in range(4):
        scheduler = TrialScheduler(tmp_path, settings(n_trials=4, sampler={"name": "grid"}), wider)
        finish(scheduler, tmp_path, lease_from(scheduler))
    narrower = parsed_space(["data=digits", "x=choice(1,2)"], {})
    scheduler = TrialScheduler(tmp_path, settings(n_trials=6), narrower)
    lease = lease_from(scheduler)
    assert (lease.number, lease.overrides[1][:2]) == (4, "x=")


def test_the_overrides_in_a_strangers_journal_are_not_used(tmp_path: Path):
    space = parsed_space(["data=digits", "sweep.checked=true", "model=choice(mlp,conv)"], {})
    TrialScheduler(tmp_path, settings(), space)
    hostile = ["data.source._target_=joblib.load", "+data.source.filename=x.pkl", "model=../../theirs"]
    study = load_study(tmp_path / STUDY_FILE)
    study.ask().set_user_attr("overrides", hostile)
    trial = study.ask()
    value = space.suggest(trial)[-1]
    trial.set_user_attr("overrides", hostile)
    scheduler = TrialScheduler(tmp_path, settings(), space)
    for lease in (lease_from(scheduler), lease_from(scheduler)):
        assert lease.overrides[:2] == ["data=digits", "sweep.checked=true"]
        assert lease.overrides[2] in ("model=mlp", "model=conv")
        assert lease.overrides[3].startswith("sweep.trial=")
    assert lease.overrides[2] == value
