"""A search space in Hydra's syntax, as Optuna's distributions."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException
from optuna import create_study
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler
from optuna.trial import Trial

from vae_exp.configuration.overrides import override_key
from vae_exp.errors import UserError

Conditions = Mapping[str, Mapping[str, Sequence[Any]]]
_EXAMPLES = 100  # enough to meet conditions that depend on each other


@dataclass(frozen=True)
class Space:
    """The space of a search.

    Args:
        fixed: Overrides that every trial has.
        distributions: By the key of an override, as it was written: `model.latent_dim`, `+loss.beta`.
        conditions: A key is searched only where other keys have one of the values that stand here.
    """

    fixed: tuple[str, ...]
    distributions: dict[str, BaseDistribution]
    conditions: Conditions

    def suggest(self, trial: Trial, drawn: Collection[str] = ()) -> list[str]:
        """The overrides of a trial, its values drawn by the sampler; keys whose condition fails are left out.

        Args:
            trial: Of a study; a value that it has is not drawn again.
            drawn: The keys of a trial whose values are all drawn: it has no others.
        """
        chosen: dict[str, Any] = {}
        for key in _order(self.conditions, self.distributions):
            is_searched = key in drawn if drawn else self._applies(key, chosen)
            if is_searched:
                chosen[key] = _suggest(trial, key, self.distributions[key])
        return [*self.fixed, *(f"{key}={value}" for key, value in chosen.items())]

    def examples(self) -> list[list[str]]:
        """Overrides of random points of the space, one for each set of keys that occurred."""
        study = create_study(sampler=RandomSampler(seed=0))
        points = [self.suggest(study.ask()) for _ in range(_EXAMPLES if self.conditions else 1)]
        return [*{frozenset(map(override_key, point)): point for point in points}.values()]

    def grid(self) -> dict[str, list[Any]]:
        """The values of each key, for a sampler that tries all of them.

        Raises:
            UserError: if a key has infinitely many values.
        """
        grid: dict[str, list[Any]] = {}
        for key, distribution in self.distributions.items():
            if isinstance(distribution, CategoricalDistribution):
                grid[key] = list(distribution.choices)
            elif isinstance(distribution, IntDistribution):
                grid[key] = list(range(distribution.low, distribution.high + 1, distribution.step))
            else:
                raise UserError(f"hydra.sweeper.sampler.name=grid: {key} has no list of values; say choice(…).")
        return grid

    def _applies(self, key: str, chosen: Mapping[str, Any]) -> bool:
        return all(
            other in chosen and _parsed(chosen[other]) in map(_parsed, values)
            for other, values in self.conditions.get(key, {}).items()
        )


def parsed_space(overrides: Sequence[str], conditions: Conditions) -> Space:
    """Read overrides such as `latent_dim=int(interval(2,64))` or `lr=tag(log,interval(1e-4,1e-2))`.

    Args:
        overrides: As Hydra writes them: `choice`, `range`, `interval`, lists of values, or one value.
        conditions: By key, which values of other keys it needs.

    Raises:
        UserError: if nothing is searched, if an interval is empty, or if a condition cannot be evaluated.
    """
    fixed, distributions = [], {}
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    latest = {override.get_key_element(): override for override in parsed}  # the last one of a key wins
    for override in latest.values():
        if override.is_sweep_override():
            distributions[override.get_key_element()] = _distribution(override)
        else:
            fixed.append(str(override.input_line))
    if not distributions:
        raise UserError(
            "hydra/sweeper=optuna has nothing to search: give a key several values, such as "
            "'model.latent_dim=choice(2,8,32)' or 'optimizer.lr=tag(log,interval(1e-4,1e-2))'."
        )
    _order(conditions, distributions)
    return Space(tuple(fixed), distributions, conditions)


def _distribution(override: Override) -> BaseDistribution:
    value, written = override.value(), override.input_line
    try:
        if isinstance(value, IntervalSweep):
            return _interval(value)
        if isinstance(value, RangeSweep) and not value.shuffle:
            return _range(value)
        choices = list(dict.fromkeys(override.sweep_string_iterator()))
        if not choices:
            raise UserError(f"{written} has no values.")
        return CategoricalDistribution(choices)
    except (ValueError, TypeError) as error:
        raise UserError(f"{written} cannot be searched: {error}") from error


def _parsed(value: Any) -> Any:
    """A value as Hydra reads it from an override: the text `null` is None, `[400,200]` a list."""
    if not isinstance(value, str):
        return value
    try:
        override = OverridesParser.create().parse_override(f"value={value}")
    except HydraException:  # text that is no value of Hydra's grammar stands for itself
        return value
    return value if override.is_sweep_override() else override.value()


def _is_logarithmic(value: IntervalSweep | RangeSweep) -> bool:
    if unknown := value.tags - {"log"}:
        raise ValueError(f"tag {', '.join(sorted(unknown))} is not known; only log is")
    return "log" in value.tags


def _interval(value: IntervalSweep) -> BaseDistribution:
    log = _is_logarithmic(value)
    assert value.start is not None
    assert value.end is not None
    if isinstance(value.start, int) and isinstance(value.end, int):
        return IntDistribution(value.start, value.end, log=log)
    return FloatDistribution(float(value.start), float(value.end), log=log)


def _range(value: RangeSweep) -> BaseDistribution:
    """Hydra's range leaves its end out."""
    assert value.start is not None
    assert value.stop is not None
    numbers, log = list(value.range()), _is_logarithmic(value)
    if not numbers:
        raise ValueError("it has no values")
    if all(isinstance(number, int) for number in numbers):
        low, high = min(numbers), max(numbers)
        return IntDistribution(int(low), int(high), step=abs(int(value.step)), log=log)
    if log:
        raise ValueError("tag log needs whole numbers; say interval")
    return CategoricalDistribution(numbers)


def _suggest(trial: Trial, key: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(key, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(
            key, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    assert isinstance(distribution, FloatDistribution)
    drawn = trial.suggest_float(key, distribution.low, distribution.high, log=distribution.log)
    return f"{drawn:.6g}"  # as it stands in names and tables


def _order(conditions: Conditions, distributions: Mapping[str, BaseDistribution]) -> list[str]:
    """Keys so that those which a condition names come first.

    Raises:
        UserError: if a condition names a key that is not searched, or needs itself.
    """
    for key, needed in conditions.items():
        for name in (key, *needed):
            if name not in distributions:
                searched = ", ".join(distributions)
                raise UserError(
                    f"hydra.sweeper.conditions.{key} names {name}, which is not searched; known: {searched}."
                )
    try:
        return [*TopologicalSorter({key: conditions.get(key, ()) for key in distributions}).static_order()]
    except CycleError as error:
        raise UserError(f"hydra.sweeper.conditions.{error.args[1][0]} needs, in the end, itself.") from error
