"""Configs of jobs, compared with those that Hydra composes."""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import Container, OmegaConf

from vae_exp.cli.callbacks import TrainCallback
from vae_exp.configuration.config_dir import config_dir
from vae_exp.configuration.resolvers import register_resolvers
from vae_exp.configuration.schema import register_schemas
from vae_exp.sweep.config_loader import SweepConfigLoader
from vae_exp.sweep.manifest import planned_jobs, register_job_name
from vae_exp.sweep.search.space import parsed_space

EXPERIMENTS = sorted((config_dir() / "experiment").glob("*.yaml"))
SWEEPS = [path.stem for path in EXPERIMENTS if "\n    params:" in path.read_text()]
# In order: keys of an earlier job are back at their defaults in the next one.
VALUES = [
    ["model.latent_dim=3", "seed=1", "trainer.epochs=7", "optimizer.lr=1e-3", "sweep.name=null"],
    ["model.hidden_dims=[7, 5]", "model.hidden_dims=[9]", "data.image_shape=[1,8,8]", "tracker.name=''"],
    ["seed=3", "seed=4", "tracker.tags=['a b',\"c,d\",3]", "model.latent_dim=${seed}", "sweep.name='a=b'"],
    ["tracker.notes='quote \\' and ${seed}'", "tracker.project=${oc.env:HOME}", "checkpoint={every_n_epochs: 3}"],
    ["+model.extra={a: 1, b: [x, null, 1.0]}", "model.extra.a=2", "~model.extra.b", "++seed=5", "++model.other=1"],
    ["model={latent_dim: 5, encoder: {_target_: x}}", "seed=1"],
    ["loss=beta_vae", "+loss/schedule@loss.beta=linear", "loss.beta.duration=4", "seed=1"],
    ["seed=2", "loss=beta_vae", "+loss/schedule@loss.beta=linear"],
    ["seed=9", "evaluator=[units,nll]", "evaluator.nll.num_importance_samples=7", "model=resnet"],
    ["hydra.job.name=other"],
    [],
]
ERRORS = [
    ["model.latent_dims=3"],
    ["trainer.epochs=1.5", "model.unknown=1"],
    ["seed=1,2"],
    ["model=unknown", "seed=1"],
    ["model=null"],
    ["~unknown"],
]


@contextmanager
def loaders(*overrides: str) -> Iterator[tuple[Any, ConfigLoaderImpl, SweepConfigLoader]]:
    """The config of a sweep; Hydra's loader and the one with shared options."""
    register_schemas()
    register_resolvers()
    with initialize_config_dir(str(config_dir()), version_base="1.3", job_name="train"):
        hydra: Any = GlobalHydra.instance().config_loader()
        sweep = hydra.load_configuration("train", list(overrides), RunMode.MULTIRUN)
        yield sweep, hydra, SweepConfigLoader(hydra.get_search_path())


def nodes(node: Any) -> list[tuple[Any, ...]]:
    """Everything that a node is made of, in order: types, raw values, flags, interpolations, resolved values."""
    value = node._content if isinstance(node, Container) else node._value()
    children = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    assert all(child._get_parent() is node for child in children)
    own = None if isinstance(value, dict | list) else value
    return [(type(node), dict(vars(node._metadata)), type(value), own, len(children))] + [
        line for child in children for line in nodes(child)
    ]


def outcome(loader: Any, sweep: Any, job: list[str]) -> Any:
    try:
        return nodes(loader.load_sweep_config(sweep, list(job)))
    except (HydraException, ValueError) as error:
        return type(error), str(error), repr(error.__cause__)


def test_a_job_that_a_cluster_requeues_is_of_the_sweep_that_started_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train", "--multirun"])
    register_job_name()
    moments = count()
    with loaders("data=digits", "seed=0,1", "sweep.rerun=true", "hydra.sweep.dir=here") as (sweep, hydra, shared):
        OmegaConf.register_new_resolver("now", lambda _: str(next(moments)), use_cache=True, replace=True)
        TrainCallback().on_multirun_start(sweep)
        pickled = pickle.loads(pickle.dumps(sweep))
        configs = [loader.load_sweep_config(pickled, ["seed=0"]) for loader in (hydra, shared, hydra, shared)]
        assert len({config.sweep.started_at for config in configs}) == 1


@pytest.mark.slow
def test_values_of_every_kind_are_set_as_hydra_sets_them():
    with loaders("hydra.sweep.dir=${oc.env:HOME}/${now:%f}", "data=digits", "seed=0,1") as (sweep, hydra, shared):
        assert sweep.hydra.sweep.dir  # resolves the time, which jobs take over
        for job in VALUES:
            assert outcome(shared, sweep, job) == nodes(hydra.load_sweep_config(sweep, list(job))), job
        assert len(shared._composed) == 3


@pytest.mark.slow
def test_errors_are_those_of_hydra_and_leave_the_next_job_alone():
    with loaders("seed=0,1") as (sweep, hydra, shared):
        for job in ERRORS:
            error = outcome(shared, sweep, job)
            assert isinstance(error, tuple), job
            assert error == outcome(hydra, sweep, job)
        assert outcome(shared, sweep, ["seed=1"]) == outcome(hydra, sweep, ["seed=1"])


@pytest.mark.quick(1)
@pytest.mark.parametrize("experiment", SWEEPS)
def test_jobs_of_every_experiment_are_composed_as_hydra_composes_them(experiment: str):
    with loaders(f"experiment={experiment}", "data=digits") as (sweep, hydra, shared):
        params = yaml.safe_load((config_dir() / "experiment" / f"{experiment}.yaml").read_text())["hydra"][
            "sweeper"
        ]
        space = [*(f"{key}={value}" for key, value in params["params"].items()), f"experiment={experiment}"]
        jobs = planned_jobs(sweep, space) or parsed_space(space, {}).examples()
        shared.load_sweep_config(sweep, jobs[0])
        assert outcome(shared, sweep, jobs[-1]) == nodes(hydra.load_sweep_config(sweep, jobs[-1]))


def test_every_experiment_that_is_a_sweep_is_compared():
    assert len(SWEEPS) == 4


@pytest.mark.slow
def test_groups_of_an_own_folder_are_options(tmp_path: Path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "small.yaml").write_text("# @package _global_\nseed: 77\n")
    with loaders(f"hydra.searchpath=[file://{tmp_path}]", "+own=small") as (sweep, hydra, shared):
        for job in (["trainer.epochs=2", "+own=small"], ["+own=small"]):
            config = shared.load_sweep_config(sweep, job)
            assert config.seed == 77
            assert nodes(config) == nodes(hydra.load_sweep_config(sweep, list(job)))


def test_files_are_read_once_and_processes_of_jobs_get_none(monkeypatch: pytest.MonkeyPatch):
    with loaders("seed=range(30)") as (sweep, _, shared):
        compositions = []
        compose = shared.load_configuration
        monkeypatch.setattr(
            SweepConfigLoader,
            "load_configuration",
            lambda self, *args: compositions.append(args) or compose(*args),
        )
        assert [shared.load_sweep_config(sweep, [f"seed={seed}"]).seed for seed in range(30)] == list(range(30))
        assert len(compositions) == 1
        assert type(pickle.loads(pickle.dumps(shared))) is ConfigLoaderImpl
