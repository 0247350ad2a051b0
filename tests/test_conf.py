"""Every YAML file composes, and what it names can be built."""

import re
from collections import defaultdict
from itertools import chain, zip_longest
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from tests.composing import CONF, composed
from vae_exp.configuration.instantiate import (
    build_evaluators,
    build_loss,
    build_optimizer,
    build_scheduler,
    build_splits,
    build_vae,
)
from vae_exp.configuration.parsing import parse_config
from vae_exp.configuration.schema import COMMANDS, TrainConfig
from vae_exp.engine.shutdown import GracefulShutdown
from vae_exp.errors import UserError
from vae_exp.storage.run_directory import RunDirectory

# Parts of the primary configs, and the rows of reproduce.
NOT_OPTIONS = ("_shared", "hydra/help", "hydra/job_logging", "reproduce")
# Old names of options.
MODEL_ALIASES = {"two_layer": "hierarchical"}
ALIASES = {"seed_post": "minimalist_vae", "seed_binarized": "minimalist_vae_binarized"}
USER_DATA = {
    "arrays": ["data.path=images.npz"],
    "folder": ["data.path=images"],
    "dataset": ["data.source.dataset._target_=torchvision.datasets.FakeData"],
}
# Groups whose options are composed together, since none of them limits what another may be.
INDEPENDENT = [
    ("loss", "data", "optimizer", "scheduler", "tracker", "trainer", "hydra/launcher", "hydra/sweeper"),
    ("evaluator", "model/likelihood", "model/prior", "model/encoder", "model/decoder"),
]
MULTI = {"evaluator"}  # groups of which several options may be chosen


def option_files() -> list[str]:
    """Every file that is an option of a group."""
    paths = [path.relative_to(CONF) for path in CONF.rglob("*.yaml")]
    return sorted(
        str(path)
        for path in paths
        if path.parent.as_posix() not in (".", "hydra", *NOT_OPTIONS) and not path.stem.startswith("_")
    )


def set_up_refusal(*overrides: str) -> str:
    """Why a run with these overrides cannot be set up."""
    from vae_exp.runs.training_setup import SweepJob, set_up

    run_dir, config = RunDirectory(Path("nowhere")), composed("train", *overrides)
    with pytest.raises(UserError) as refused:
        set_up(config, run_dir, None, None, SweepJob(), {}, GracefulShutdown())
    assert not Path("nowhere").exists()
    return str(refused.value)


def override_for(file: str) -> list[str]:
    """The override that chooses a file, with what else it needs."""
    path = Path(file)
    group, option = path.parent.as_posix(), path.stem
    if group == "experiment":
        return [f"experiment={option}", *(["data.image_shape=[3,32,32]"] if option == "gallery_colour" else [])]
    if group in MULTI:
        return [f"{group}=[{option}]"]
    if group == "loss/schedule":
        return ["loss=beta_vae", f"+loss/schedule@loss.beta={option}"]
    if (group, option) in (("loss", "vq"), ("model", "vq")):
        return ["loss=vq", "model=vq"]
    if (group, option) == ("data", "dsprites"):
        return ["data=dsprites", "data.path=sprites.npz"]
    extra = [*USER_DATA[option], "data.image_shape=[1,4,4]"] if option in USER_DATA else []
    return [f"{group}={option}", *extra]


def files_together() -> list[list[str]]:
    """Every file that is an option, with one of every other group that can be chosen beside it."""
    by_group = defaultdict(list)
    for file in option_files():
        by_group[Path(file).parent.as_posix()].append(file)
    rows = [zip_longest(*(by_group.pop(group) for group in groups)) for groups in INDEPENDENT]
    alone = [[file] for files in by_group.values() for file in files]
    return [[file for file in row if file] for row in chain(*rows)] + alone


@pytest.mark.parametrize("files", files_together(), ids=" ".join)
def test_every_option_composes_and_is_built(files):
    config = composed("train", *chain(*map(override_for, files)))
    settings = parse_config(config, TrainConfig)
    plain = OmegaConf.to_container(config, resolve=True)
    build_splits(settings.data)
    vae = build_vae(plain["model"], plain["data"]["image_shape"])
    optimizer = build_optimizer(plain["optimizer"], vae.parameters())
    build_scheduler(plain["scheduler"], optimizer)
    assert callable(build_loss(plain["loss"], vae, plain["data"]["image_shape"], 1000))
    assert build_evaluators(plain["evaluator"]).keys() == plain["evaluator"].keys()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_primary_config_follows_its_schema(command):
    needs_run = command not in ("train", "benchmark")
    parse_config(composed(command, *(["run=somewhere"] if needs_run else [])), COMMANDS[command])


def test_every_primary_config_has_a_schema():
    assert {path.stem for path in CONF.glob("*.yaml")} == set(COMMANDS)


def test_experiments_say_how_to_run_them():
    for path in (CONF / "experiment").glob("*.yaml"):
        if path.stem in ALIASES:
            continue
        head = path.read_text()
        assert f"experiment={path.stem}" in head
        assert "# command:" in head
        assert "# expected:" in head


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_an_old_name_of_an_experiment_composes_the_same(alias, name):
    assert composed("train", f"experiment={alias}") == composed("train", f"experiment={name}")


@pytest.mark.parametrize(("alias", "name"), MODEL_ALIASES.items())
def test_an_old_name_of_a_model_composes_the_same(alias, name):
    assert composed("train", f"model={alias}") == composed("train", f"model={name}")


def test_the_help_names_every_option():
    template = (CONF / "hydra/help/train.yaml").read_text()
    entries = dict(re.findall(r"(?ms)^    ([a-z/]+)  +(.*?)(?=^    \S|^  \S|^$)", template))
    for file in option_files():
        group, option = Path(file).parent.as_posix(), Path(file).stem
        assert option in ALIASES | MODEL_ALIASES or re.search(rf"\b{option}\b", entries[group]), file


def test_the_defaults_are_the_minimalist_vae_with_5000_images_held_out():
    settings = parse_config(composed("train"), TrainConfig)
    assert (settings.model.latent_dim, settings.model.hidden_dims, settings.model.activation) == (2, [500], "relu")
    assert (settings.trainer.epochs, settings.trainer.batch_size) == (50, 100)
    assert settings.optimizer == {"_target_": "torch.optim.Adam", "lr": 1e-3, "weight_decay": 1e-5}
    assert settings.trainer.loss_reduction == "sum"
    assert settings.data.validation_size == 5000
    assert parse_config(composed("train", "experiment=minimalist_vae"), TrainConfig).data.validation_size == 0


def test_sizes_are_shared_and_each_part_can_be_overridden():
    plain = OmegaConf.to_container(
        composed("train", "model.hidden_dims=[30,20]", "model.decoder.hidden_dims=[7]", "model.latent_dim=5"),
        resolve=True,
    )
    vae = build_vae(plain["model"], [1, 28, 28])
    widths = [layer.out_features for layer in vae.encoder.modules() if isinstance(layer, torch.nn.Linear)]
    assert widths == [30, 20, 10]
    assert [layer.out_features for layer in vae.decoder.modules() if isinstance(layer, torch.nn.Linear)] == [
        7,
        784,
    ]
