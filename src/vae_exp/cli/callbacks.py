"""Where Hydra calls us: before a run has a directory, and when a sweep starts."""

import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from vae_exp.cli.command_line import format_error, group_of, own_search_path
from vae_exp.configuration import value_checks
from vae_exp.configuration.overrides import override_key
from vae_exp.configuration.parsing import parse_config
from vae_exp.configuration.schema import TrainConfig
from vae_exp.configuration.validation import check_data_path
from vae_exp.engine import torchrun
from vae_exp.errors import UserError
from vae_exp.storage.atomic_io import absolute_path, check_within, check_writable
from vae_exp.storage.run_directory import RunDirectory, claim_directory, resumed_directory
from vae_exp.sweep.config_loader import SweepConfigLoader
from vae_exp.sweep.manifest import add_command, check_swept_keys, planned_jobs, searched_keys
from vae_exp.sweep.session import current_session

_CHECKED_VALUES = 20  # of a swept key; a check takes about 0.03 s


class TrainCallback(Callback):
    """Refuses a bad config before anything is written, and remembers where a sweep goes.

    Hydra turns exceptions of callbacks into warnings; leaving through SystemExit is what stops it.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check a single run."""
        try:
            check_run(config)
        except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
            raise SystemExit(f"Error: {format_error(error)}") from error

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check and remember the directory of a sweep; its jobs are checked one by one."""
        try:
            # Resolve the start time now: all jobs, and those that are started again later, have the same one.
            _ = config.sweep.started_at
            overrides = _overrides(config, "task")
            if config.sweep.name is not None:
                value_checks.check_sweep_name("sweep.name", config.sweep.name)
            if torchrun.world_size() > 1:
                raise UserError(
                    "--multirun trains one job after another in one process; torchrun's processes train one run "
                    "together: leave out one of the two."
                )
            resumed = [text for text in overrides if re.match(r"\+*resume=(?!null$)", text)]
            if resumed:
                raise UserError(f"{resumed[0]} continues one run; leave out --multirun.")
            check_swept_keys(overrides)
            _require_a_name("hydra.sweep.dir", config.hydra.sweep.dir)
            sweep = Path(str(config.hydra.sweep.dir))
            jobs = planned_jobs(config, overrides)
            _share_compositions()
            _check_jobs(config, overrides, jobs or [])
            check_writable(sweep, "hydra.sweep.dir")
            added = own_search_path()  # by the environment, which adds it again
            given = [word for word in sys.argv[1:] if word not in added]
            searched = searched_keys(config, overrides) if jobs is None else []
            add_command(sweep, given, Path.cwd(), jobs or [], searched)
        except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
            raise SystemExit(f"Error: {format_error(error)}") from error
        current_session().track(sweep, has_wandb_runs=config.tracker.mode == "offline")


def check_run(config: DictConfig) -> None:
    """Refuse a bad config of a single run before anything is written, and claim its default directory.

    Args:
        config: The composed config with Hydra's section, in which a claimed directory is set.

    Raises:
        UserError: names the key, its value and what would be right.
    """
    _refuse_overrides_of_sweeps(config)
    source = parse_config(without_hydra_node(config), TrainConfig).data.source
    _require_a_name("hydra.run.dir", config.hydra.run.dir)
    if config.resume:
        resumed = resumed_directory(config.resume)
        _require_a_run(resumed)
        _require_no_other_directory(config)
        check_writable(resumed.path, "resume")
    else:
        directory = RunDirectory(Path.cwd() / str(config.hydra.run.dir))  # as Hydra takes it: no ~
        if not _has_default_directory(config):
            directory.require_free()
        existing = directory.path if directory.path.exists() else directory.path.parent
        check_writable(existing, "hydra.run.dir")
        if "path" in source and source["_target_"].startswith("vae_exp.data."):
            check_data_path(source["path"], source["_target_"])
    if config.tracker.mode == "online":  # before the seconds that torch and the data take
        from vae_exp.tracking.wandb_tracker import require_api_key

        require_api_key(absolute_path("tracker.root", str(config.tracker.root)))
    if not config.resume and _has_default_directory(config):
        config.hydra.run.dir = str(claim_directory(Path(config.hydra.run.dir)))


def _refuse_overrides_of_sweeps(config: DictConfig) -> None:
    """Refuse, in a single run, what only a sweep uses."""
    for override in [*_overrides(config, "hydra"), *_overrides(config, "task")]:
        key = override_key(override)
        is_of_sweep = key in ("hydra.launcher", "hydra.sweeper", "sweep.name", "sweep.rerun")
        if is_of_sweep or key.startswith("hydra.sweep."):
            raise UserError(f"{override} is for a sweep; add --multirun, or leave it out.")


def _has_default_directory(config: DictConfig) -> bool:
    raw: Any = OmegaConf.to_container(config.hydra.run, resolve=False)
    return str(raw["dir"]).startswith("${vae_exp.run_directory:")


def _require_a_name(key: str, directory: object) -> None:
    if not str(directory).strip():
        raise UserError(f"{key}= is empty; name a directory, or leave it out.")


def _share_compositions() -> None:
    """Let everything that composes jobs read and merge each choice of options once: checks, sweeper, launcher."""
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None
    hydra.config_loader = SweepConfigLoader(hydra.config_loader.get_search_path())


def _check_jobs(config: DictConfig, overrides: Sequence[str], jobs: Sequence[Sequence[str]]) -> None:
    """Compose and check jobs until every option and the first values of every swept key have occurred."""
    checked_overrides = set(overrides)
    values_of_key: Counter[str] = Counter()
    for job in jobs:
        new = [override for override in job if override not in checked_overrides]
        if not any(group_of(x) or values_of_key[override_key(x)] < _CHECKED_VALUES for x in new):
            continue
        composed = GlobalHydra.instance().config_loader().load_sweep_config(config, list(job))
        parse_config(without_hydra_node(composed), TrainConfig)
        checked_overrides.update(new)
        values_of_key.update(override_key(override) for override in new)


def _require_a_run(directory: RunDirectory) -> None:
    if not directory.config.is_file():
        raise UserError(f"resume={directory.path} holds no run: {directory.config} is missing.")
    written = [
        directory.lock,
        directory.log,
        directory.metrics,
        directory.result,
        directory.figures,
        directory.config,
    ]
    for path in (*written, directory.checkpoint("last"), directory.checkpoint("best")):
        check_within(path, directory.path)


def _overrides(config: DictConfig, kind: str) -> list[str]:
    """The overrides of the command line as they were written, whatever they refer to."""
    raw: Any = OmegaConf.to_container(config.hydra.overrides, resolve=False)
    return [str(override) for override in raw[kind]]


def _require_no_other_directory(config: DictConfig) -> None:
    if not torchrun.is_main_process():  # those that assist write into a directory of their own
        return
    other = [text for text in _overrides(config, "hydra") if text.startswith("hydra.run.dir=")]
    if other:
        raise UserError(f"{other[0]} is not for resume={config.resume}: a resumed run stays where it is.")


def without_hydra_node(config: DictConfig) -> DictConfig:
    """The config without Hydra's own section."""
    task = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    with open_dict(task):
        return task
