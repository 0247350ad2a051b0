"""What W&B's environment variables decide, and what the config."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.composing import composed
from vae_exp.configuration.allowlist import Caller, require_safe
from vae_exp.configuration.parsing import parse_config, resolve_to_dict
from vae_exp.configuration.resolvers import config_hash
from vae_exp.configuration.schema import TrainConfig
from vae_exp.configuration.stored_config import load_stored_config
from vae_exp.engine.shutdown import GracefulShutdown
from vae_exp.errors import UserError
from vae_exp.runs.resume import with_own_tracker
from vae_exp.runs.training import _settled, _write_config, run_training
from vae_exp.runs.wandb_run import VARIABLES, overruled_variables, start_wandb
from vae_exp.storage.run_directory import RunDirectory
from vae_exp.sweep.run_job import JobAction, paused_job
from vae_exp.tracking.wandb_tracker import WandbTracker

VALUES = {
    "mode": "online", "project": "foo", "entity": "team", "group": "ablation", "name": "first", "notes": "a note",
    "tags": "a, b", "root": "elsewhere",
}  # fmt: skip


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, variable in VARIABLES.items():
        monkeypatch.setenv(variable, VALUES[key])


def _settings(*overrides: str) -> Any:
    return parse_config(composed("train", "data=digits", *overrides), TrainConfig).tracker


def test_without_variables_the_defaults_hold(monkeypatch: pytest.MonkeyPatch):
    for variable in VARIABLES.values():
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("WANDB_PROJECT", "")
    settings = _settings()
    assert (settings.mode, settings.project, settings.root, settings.tags) == ("offline", "vae_exp", ".", [])
    assert (settings.entity, settings.group, settings.name, settings.notes) == (None, None, None, None)
    assert overruled_variables(settings) == ""


def test_variables_decide_what_the_config_leaves_open(variables: None):
    settings = _settings()
    assert {key: getattr(settings, key) for key in VALUES} == VALUES | {"tags": ["a", "b"]}
    assert overruled_variables(settings) == ""


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["tracker.project=bar"], "tracker.project=bar, not WANDB_PROJECT=foo"),
        (["tracker=offline"], "tracker.mode=offline, not WANDB_MODE=online"),
        (
            ["tracker.tags=[c]", "tracker.entity=null"],
            "tracker.entity=None, tracker.tags=['c'], not WANDB_ENTITY=team, WANDB_TAGS=a, b",
        ),
        (["tracker=none", "tracker.project=bar"], "tracker.mode=none, not WANDB_MODE=online"),
    ],
)
def test_the_config_overrules_them_and_says_so(variables: None, overrides: list[str], message: str):
    assert overruled_variables(_settings(*overrides)) == f"The config decides: {message}."


def test_a_resumed_run_keeps_its_own(variables: None):
    message = overruled_variables(_settings("tracker.project=bar"), is_resumed=True)
    assert message == "The run keeps its own: tracker.project=bar, not WANDB_PROJECT=foo."


def test_they_are_no_part_of_a_jobs_identity(variables: None, monkeypatch: pytest.MonkeyPatch):
    with_variables = config_hash(composed("train", "data=digits"))
    for variable in VARIABLES.values():
        monkeypatch.delenv(variable)
    changed = composed("train", "data=digits", "tracker.log_checkpoint=best", "tracker.save_code=true")
    assert config_hash(changed) == with_variables


def _stored(folder: Path, tracker: str) -> RunDirectory:
    directory = RunDirectory(folder)
    directory.config.parent.mkdir(parents=True)
    directory.config.write_text(f"data: {{}}\nmodel: {{}}\ntracker: {tracker}\n")
    return directory


def test_a_job_that_continues_keeps_what_the_environment_gave_it(variables: None, tmp_path: Path):
    directory = _stored(tmp_path, "{mode: offline, project: first, name: before, tags: [], root: .}")
    config = composed("train", "data=digits", "tracker.name=now")
    tracker = parse_config(with_own_tracker(config, directory), TrainConfig).tracker
    assert (tracker.mode, tracker.project, tracker.tags, tracker.root) == ("offline", "first", [], ".")
    assert (tracker.name, tracker.notes) == ("now", "a note")


def test_the_tracker_of_a_job_reads_no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("SECRET_TOKEN", "secret")
    directory = _stored(tmp_path, "{mode: offline, notes: 'a ${oc.env:SECRET_TOKEN}', tags: ['${oc.env:HOME}']}")
    config = with_own_tracker(composed("train", "data=digits"), directory)
    tracker = parse_config(config, TrainConfig).tracker
    assert (tracker.notes, tracker.tags) == (None, [])
    directory.config.write_text("data: {}\ntracker: {notes: '${vae_exp.env:SECRET_TOKEN}'}\n")
    with pytest.raises(UserError, match="calls a resolver"):
        with_own_tracker(config, directory)


@pytest.mark.parametrize(
    ("tracker", "refused"), [("{mode: online, entity: mallory}", "mode=online"), ("{root: /etc/x}", "root=/etc/x")]
)
def test_the_tracker_of_a_job_that_retry_continues_is_checked(
    tracker: str, refused: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for variable in VARIABLES.values():
        monkeypatch.delenv(variable, raising=False)
    directory = _stored(tmp_path / "sweep" / "job", tracker)
    monkeypatch.setattr("vae_exp.sweep.run_job.decide_action", lambda *_: JobAction.RESUME)
    config = composed("train", "data=digits", "sweep.checked=true")
    with pytest.raises(UserError, match=f"the stored config has .*{refused}.*refused"):
        run_training(paused_job(config, [], directory, "sweep", GracefulShutdown()), GracefulShutdown())


@pytest.mark.parametrize("text", [None, "[]", "nonsense"])
def test_a_job_that_is_resumed_alone_keeps_its_names(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def names(state: dict[str, int] | None, sweep: str | None) -> tuple[object, ...]:
        tracker = start_wandb(_settings("tracker=offline"), {}, directory, state, None, sweep, {}, {})
        assert tracker is not None
        directory.wandb.write_text(text or json.dumps(tracker.description))
        return tuple(tracker.description[key] for key in ("group", "job_type", "name"))

    for variable in VARIABLES.values():
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(WandbTracker, "_start", lambda *_, **__: None)
    directory = RunDirectory(tmp_path / "seed-0_0123abcd")
    directory.path.mkdir()
    job = ("mine", "sweep", "seed-0_0123abcd")
    assert names(None, "mine") == job
    assert names({"epoch": 3}, None) == (job if text is None else (None, "train", "seed-0_0123abcd"))


def test_no_tracking_has_two_names(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert _settings().mode == "none"
    assert overruled_variables(_settings("tracker=none")) == ""


@pytest.mark.quick(3)
@pytest.mark.parametrize(
    ("mode", "overrides", "expected"),
    [
        (None, [], "online"),
        (None, ["tracker.project=mine"], "online"),
        ("online", [], "online"),
        ("offline", [], "offline"),
        ("disabled", [], "none"),
        (None, ["tracker=none"], "none"),
        (None, ["tracker.mode=offline"], "offline"),
        (None, ["experiment=mine"], "none"),
    ],
)
def test_a_run_of_wandb_agent_is_tracked_online_unless_something_else_is_said(
    mode: str | None, overrides: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if mode:
        monkeypatch.setenv("WANDB_MODE", mode)
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults: [{override /tracker: none}]\n"
    )
    assert _settings(f"hydra.searchpath=[file://{tmp_path}]", *overrides).mode == expected


def test_a_mode_that_is_unknown_is_refused_with_its_source(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    with pytest.raises(
        UserError, match=r"tracker.mode=dryrun \(from WANDB_MODE\) must be offline, online or none"
    ):
        _settings()


@pytest.mark.quick(1)
@pytest.mark.parametrize("notes", ["lr: 1e-3, ${seed} [a]", "cost ${HOME}", r"\${now:%Y} \\${seed}\\", "${"])
def test_a_value_may_hold_what_would_be_grammar(notes: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("WANDB_NOTES", notes)
    monkeypatch.setenv("WANDB_TAGS", f"{notes.replace(',', '')},b")
    config = composed("train", "data=digits")
    directory = RunDirectory(tmp_path / "run")
    _write_config(config, directory)
    monkeypatch.delenv("WANDB_NOTES")
    monkeypatch.delenv("WANDB_TAGS")
    stored = load_stored_config(directory)
    for reopened in (stored, _settled(stored), with_own_tracker(composed("train", "data=digits"), directory)):
        tracker = parse_config(reopened, TrainConfig).tracker
        assert (tracker.notes, tracker.tags) == (notes, [notes.replace(",", ""), "b"])
    require_safe(resolve_to_dict(stored), Caller(directory.path))
