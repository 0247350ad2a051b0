"""Configs, composed as by the commands."""

from functools import cache

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict

from vae_exp.configuration.config_dir import config_dir
from vae_exp.configuration.resolvers import register_resolvers
from vae_exp.configuration.schema import register_schemas
from vae_exp.sweep.config_loader import SweepConfigLoader

CONF = config_dir()


@cache
def loader_and_defaults(name: str) -> tuple[SweepConfigLoader, DictConfig]:
    """A loader that merges each choice of options once, and the config of a command without overrides."""
    loader = SweepConfigLoader(GlobalHydra.instance().config_loader().get_search_path())
    return loader, loader.load_configuration(name, [], RunMode.RUN)


def composed(name: str, *overrides: str, with_hydra: bool = False) -> DictConfig:
    """The config of a command: equal to what Hydra composes, and far sooner where only values are set."""
    register_schemas()
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader, defaults = loader_and_defaults(name)
        config = loader.load_sweep_config(defaults, list(overrides))
    if not with_hydra:
        with open_dict(config):
            del config["hydra"]
    return config
