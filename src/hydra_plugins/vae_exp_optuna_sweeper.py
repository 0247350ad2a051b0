"""`hydra/sweeper=optuna`: a search by Optuna, in Hydra's syntax."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class OptunaSweeper(Sweeper):
    """Asks Optuna for jobs and tells it their results, until there are `n_trials`.

    Args:
        n_trials: How many trials there will be in all, those of earlier starts of the same sweep among them.
        objectives: Names of metrics.
        directions: `minimize` or `maximize`, one for each; None goes by the kind of metric.
        sampler: Its name (`tpe`, `cmaes`, `gp`, `random`, `grid`, `qmc`) and its options.
        pruner: Its name (`none`, `median`, `successive_halving`, `hyperband`) and its options.
        params: The search space, by key; overrides of the command line add to it.
        conditions: By key, which values of other keys it needs to be searched at all.
        batch_size: How many trials a launcher other than the pool is given at once.

    Raises:
        ArgumentError: names the key and its value.
    """

    def __init__(
        self,
        n_trials: int,
        objectives: Sequence[str] | str,
        directions: Sequence[str] | str | None,
        sampler: Mapping[str, Any],
        pruner: Mapping[str, Any],
        params: Mapping[str, str] | None,
        conditions: Mapping[str, Mapping[str, Sequence[Any]]] | None,
        batch_size: int,
    ) -> None:
        from vae_exp.argument_checks import check_int

        super().__init__()
        self._n_trials = check_int("hydra.sweeper.n_trials", n_trials)
        self._objectives = [objectives] if isinstance(objectives, str) else list(objectives)
        self._directions = [directions] if isinstance(directions, str) else directions and list(directions)
        self._sampler, self._pruner = _plain(sampler), _plain(pruner)
        self._params, self._conditions = _plain(params or {}), _plain(conditions or {})
        self._batch_size = check_int("hydra.sweeper.batch_size", batch_size)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store what the jobs need, and create the launcher."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher: Launcher | None = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Search until there are enough trials."""
        from vae_exp.errors import UserError

        try:
            from vae_exp.sweep.search.loop import run_in_batches, run_in_pool
            from vae_exp.sweep.search.space import parsed_space
            from vae_exp.sweep.search.study import SearchConfig, TrialScheduler, with_directions
        except ImportError as error:
            raise UserError(f"hydra/sweeper=optuna needs Optuna ({error}): pip install optuna cmaes.") from error

        assert self.config is not None
        if self.config.sweep.rerun:
            raise UserError("sweep.rerun=true: a search continues and repeats nothing; choose another sweep.name.")
        objectives = with_directions(self._objectives, self._directions)
        settings = SearchConfig(self._n_trials, objectives, self._sampler, self._pruner)
        overrides = [*(f"{key}={value}" for key, value in self._params.items()), *arguments]
        space = parsed_space(overrides, self._conditions)
        assert self.hydra_context is not None
        for example in space.examples():  # names unknown keys
            self.hydra_context.config_loader.load_sweep_config(self.config, example)
        folder = Path(str(self.config.hydra.sweep.dir))
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        scheduler = TrialScheduler(folder, settings, space)
        if hasattr(self.launcher, "stream"):
            run_in_pool(scheduler, self.launcher)
        else:
            run_in_batches(scheduler, self.launcher, self._batch_size)


def _plain(node: Any) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    return dict(plain)
