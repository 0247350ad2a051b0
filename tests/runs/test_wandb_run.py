"""What W&B's environment variables decide, and what the config."""

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from tests.test_conf import composed
from vae_exp.configuration.resolvers import config_hash
from vae_exp.configuration.schema import TrainConfig, parse_config
from vae_exp.errors import UserError
from vae_exp.runs.resume import _with_own_tracker
from vae_exp.runs.wandb_run import VARIABLES, overruled_variables
from vae_exp.storage.run_directory import RunDirectory

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


def test_they_are_no_part_of_a_jobs_identity(variables: None, monkeypatch: pytest.MonkeyPatch):
    with_variables = config_hash(composed("train", "data=digits"))
    for variable in VARIABLES.values():
        monkeypatch.delenv(variable)
    changed = composed("train", "data=digits", "tracker.log_checkpoint=best", "tracker.save_code=true")
    assert config_hash(changed) == with_variables


def test_a_job_that_continues_keeps_what_the_environment_gave_it(variables: None, tmp_path: Path):
    directory = RunDirectory(tmp_path)
    directory.config.parent.mkdir()
    directory.config.write_text("tracker: {mode: offline, project: first, name: before, tags: [], root: .}\n")
    config = composed("train", "data=digits", "tracker.name=now")
    tracker = parse_config(_with_own_tracker(config, directory), TrainConfig).tracker
    assert (tracker.mode, tracker.project, tracker.tags, tracker.root) == ("offline", "first", [], ".")
    assert (tracker.name, tracker.notes) == ("now", "a note")


def test_no_tracking_has_two_names(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert _settings().mode == "disabled"
    assert overruled_variables(_settings("tracker=none")) == ""


def test_a_mode_that_is_unknown_is_refused_with_its_source(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    with pytest.raises(
        UserError, match=r"tracker.mode=dryrun \(from WANDB_MODE\) must be offline, online or none"
    ):
        _settings()


def test_a_value_may_hold_what_would_be_grammar(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_NOTES", "lr: 1e-3, ${seed} [a]")
    config = composed("train", "data=digits")
    assert OmegaConf.to_container(config, resolve=True)["tracker"]["notes"] == "lr: 1e-3, ${seed} [a]"  # type: ignore[index]
