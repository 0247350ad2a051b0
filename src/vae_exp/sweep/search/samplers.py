"""Optuna's samplers and pruners, by their names in a config."""

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

import numpy as np
import optuna
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler

from vae_exp.errors import UserError
from vae_exp.sweep.search.space import Space

SAMPLERS: dict[str, Callable[..., BaseSampler]] = {
    "tpe": optuna.samplers.TPESampler,
    "cmaes": optuna.samplers.CmaEsSampler,
    "gp": optuna.samplers.GPSampler,
    "random": optuna.samplers.RandomSampler,
    "grid": optuna.samplers.GridSampler,
    "qmc": optuna.samplers.QMCSampler,
}
PRUNERS: dict[str, Callable[..., BasePruner]] = {
    "none": NopPruner,
    "median": optuna.pruners.MedianPruner,
    "successive_halving": optuna.pruners.SuccessiveHalvingPruner,
    "hyperband": optuna.pruners.HyperbandPruner,
}


def sampler(options: Mapping[str, Any], space: Space, trial: int) -> BaseSampler:
    """A sampler from `{name: tpe, seed: 0, …}`, for one trial.

    What it proposes follows from the seed, the trial's number and the trials before, whichever process asks and
    however often the search was interrupted; samplers that go through a list of points keep their seed.

    Raises:
        UserError: if there is no such sampler, or if it does not take an option.
    """
    given = dict(options)
    if given.get("name") == "grid":
        given["search_space"] = space.grid()
    elif given.get("name") != "qmc" and isinstance(given.get("seed"), int):
        [given["seed"]] = np.random.SeedSequence([given["seed"], trial]).generate_state(1).tolist()
    result: BaseSampler = _make("sampler", SAMPLERS, given)
    return result


def pruner(options: Mapping[str, Any]) -> BasePruner:
    """A pruner from `{name: median, n_warmup_steps: 5, …}`.

    Raises:
        UserError: if there is no such pruner, or if it does not take an option.
    """
    result: BasePruner = _make("pruner", PRUNERS, options)
    return result


def _make(kind: str, methods: Mapping[str, Callable[..., Any]], options: Mapping[str, Any]) -> Any:
    given = dict(options)
    name = given.pop("name", None)
    if name not in methods:
        raise UserError(f"hydra.sweeper.{kind}.name={name} must be one of {', '.join(methods)}.")
    takes = {method: set(signature(make).parameters) for method, make in methods.items()}
    for key in given:
        if not any(key in parameters for parameters in takes.values()):
            own = ", ".join(sorted(takes[name]))
            raise UserError(f"hydra.sweeper.{kind}.{key}: there is no such option; {name} takes {own or 'none'}.")
    given = {key: value for key, value in given.items() if key in takes[name]}  # other methods take the others
    try:
        return methods[name](**given)
    except (TypeError, ValueError) as error:
        shown = {key: value for key, value in given.items() if key != "search_space"}
        raise UserError(f"hydra.sweeper.{kind}.name={name} with {shown}: {error}") from error
    except ImportError as error:
        raise UserError(f"hydra.sweeper.{kind}.name={name} needs another package: {error}") from error
