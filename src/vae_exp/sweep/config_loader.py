"""A config loader of Hydra that composes jobs which choose the same options from one config."""

import pickle
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.config_repository import IConfigRepository
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

_Key = tuple[str | None, ...]  # config_name, overrides


class SweepConfigLoader(ConfigLoaderImpl):
    """Hydra's loader, with each choice of options read and merged once; values are set in a copy.

    Hydra, too, sets values after it has merged the files of all options, so the result is the same. Files are read
    for the first job that chooses them: later changes do not reach the sweep.

    Args:
        config_search_path: Where Hydra finds configs.
    """

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        super().__init__(config_search_path)
        self._repositories: dict[_Key, IConfigRepository] = {}
        self._composed: dict[_Key, bytes] = {}

    def __reduce__(self) -> Any:
        """In the process of a job it is Hydra's own: on a cluster that composes the one job from the start."""
        state = {name: value for name, value in vars(self).items() if name not in ("_repositories", "_composed")}
        return _hydras_loader, (state,)

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """Compose the config of a job: equal to what Hydra composes.

        Args:
            master_config: The sweep's.
            sweep_overrides: The job's.

        Raises:
            HydraException: Hydra's own error, if it cannot be composed.
        """
        with suppress(HydraException, OmegaConfBaseException):  # Hydra says below what is wrong
            overrides = OverridesParser.create().parse_overrides(sweep_overrides)
            if not any(x.is_sweep_override() or x.key_or_group.startswith("hydra") for x in overrides):
                return self._load_with_shared_options(master_config, overrides)
        return super().load_sweep_config(master_config, sweep_overrides)

    def _load_with_shared_options(self, sweep: DictConfig, overrides: Sequence[Override]) -> DictConfig:
        name, hydra_overrides = sweep.hydra.job.config_name, _plain(sweep.hydra.overrides.hydra)
        repository = self._repository(name, hydra_overrides)
        values = [x for x in overrides if not _chooses_option(x, repository)]
        options = [str(x.input_line) for x in overrides if x not in values]
        key = name, *hydra_overrides, *options
        if key not in self._composed:
            composed = self.load_configuration(name, [*hydra_overrides, *options], RunMode.RUN)
            self._composed[key] = pickle.dumps(composed)  # a fifth of the time of a deep copy
        config: DictConfig = pickle.loads(self._composed[key])  # noqa: S301 - of this process
        self._apply_overrides_to_config(values, config)
        del config.hydra.overrides.task[:]
        config.hydra.overrides.task.extend([x.input_line for x in overrides])
        config.hydra.job.override_dirname = get_overrides_dirname(
            list(overrides), **config.hydra.job.config.override_dirname
        )
        OmegaConf.copy_cache(from_config=sweep, to_config=config)
        return config

    def _repository(self, name: str | None, hydra_overrides: list[str]) -> IConfigRepository:
        """Where the groups of a sweep are: `hydra.searchpath` may add some."""
        key = name, *hydra_overrides
        if key not in self._repositories:
            _, self._repositories[key] = self._parse_overrides_and_create_caching_repo(name, hydra_overrides)
        return self._repositories[key]


def _hydras_loader(state: dict[str, Any]) -> ConfigLoaderImpl:
    loader = ConfigLoaderImpl.__new__(ConfigLoaderImpl)
    vars(loader).update(state)
    return loader


def _chooses_option(override: Override, repository: IConfigRepository) -> bool:
    return not isinstance(override.value(), dict) and repository.group_exists(override.key_or_group)


def _plain(node: Any) -> list[str]:
    plain: Any = OmegaConf.to_container(node, resolve=False)
    return list(plain)
