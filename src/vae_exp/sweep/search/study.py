"""A search: claims trials of the study, has them run, and tells the study what came of them."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite, prod
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.exceptions import DuplicatedStudyError
from optuna.samplers import RandomSampler
from optuna.study import StudyDirection
from optuna.trial import Trial, TrialState

from vae_exp.errors import UserError
from vae_exp.storage.run_directory import RunDirectory
from vae_exp.sweep.aggregate import direction
from vae_exp.sweep.job_records import read_job
from vae_exp.sweep.manifest import job_key
from vae_exp.sweep.search import journal, samplers
from vae_exp.sweep.search.space import Space

DIRECTIONS = ("minimize", "maximize")
_LOCK_SECONDS = 60
_LOCKS = ".trials"
_ENDED = ("completed", "pruned", "failed", "diverged")


@dataclass(frozen=True)
class SearchConfig:
    """What a user says about a search.

    Args:
        n_trials: How many trials there will be in all, those of earlier starts among them.
        objectives: `minimize` or `maximize` by the name of a metric.
        sampler: Options of the sampler, and its name.
        pruner: Options of the pruner, and its name.

    Raises:
        UserError: names the key and what would be right.
    """

    n_trials: int
    objectives: Mapping[str, str]
    sampler: Mapping[str, Any]
    pruner: Mapping[str, Any]

    def __post_init__(self) -> None:
        if isinstance(self.n_trials, bool) or not isinstance(self.n_trials, int) or self.n_trials < 1:
            raise UserError(f"hydra.sweeper.n_trials={self.n_trials} must be a whole number of at least 1.")
        if not self.objectives:
            raise UserError("hydra.sweeper.objectives is empty; say [val/elbo], for instance.")
        for name, better in self.objectives.items():
            if better not in DIRECTIONS:
                raise UserError(f"hydra.sweeper.directions: {better} must be minimize or maximize.")
            if name.startswith("test/"):
                raise UserError(
                    f"hydra.sweeper.objectives names {name}, and a search never sees the test images; "
                    f"say val/{name.removeprefix('test/')}, and evaluate the best job on the test images."
                )
        if len(self.objectives) > 1 and self.pruner.get("name") != "none":
            raise UserError(
                f"hydra.sweeper.pruner.name={self.pruner.get('name')} prunes by one objective, and there are "
                f"{len(self.objectives)}; say hydra.sweeper.pruner.name=none."
            )
        samplers.pruner(self.pruner)


def with_directions(objectives: Sequence[str], directions: Sequence[str] | None) -> dict[str, str]:
    """Objectives by name, with what is better; None goes by the kind of metric.

    Raises:
        UserError: if there are not as many of both.
    """
    if directions is None:
        return {name: direction(name) for name in objectives}
    if len(directions) != len(objectives):
        raise UserError(
            f"hydra.sweeper.directions={list(directions)} must have one for each of "
            f"hydra.sweeper.objectives={list(objectives)}."
        )
    return dict(zip(objectives, directions, strict=True))


@dataclass
class Claim:
    """A trial that this process runs.

    Args:
        number: Its number, and its job's.
        overrides: Its job's.
        lock: Held while it runs; a dead process holds none.
    """

    number: int
    overrides: list[str]
    lock: FileLock


class Search:
    """A study beside the jobs of a sweep. Several processes may work on it at once.

    Args:
        folder: The sweep's directory.
        settings: What is requested of it.
        space: What is searched.

    Raises:
        UserError: if the journal is damaged, or of a search for something else.
    """

    def __init__(self, folder: Path, settings: SearchConfig, space: Space) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._folder, self._settings, self._space = folder, settings, space
        samplers.sampler(settings.sampler, space, 0)  # refuses what it cannot take before anything is written
        self._journal = (folder / journal.FILE).absolute()
        (folder / _LOCKS).mkdir(parents=True, exist_ok=True)
        self.total = settings.n_trials
        if settings.sampler.get("name") == "grid":
            self.total = min(self.total, prod(map(len, space.grid().values())))
        with self._locked(), journal.readable(self._journal):
            self._study = self._opened()
            self._require_the_same_search()

    def remaining(self) -> int:
        """How many trials are still to be run, here or elsewhere."""
        ended = sum(trial.state.is_finished() for trial in self._trials())
        return max(0, self.total - ended)

    def failures(self) -> int:
        """How many trials have failed; they stay so."""
        return sum(trial.state is TrialState.FAIL for trial in self._trials())

    def unfinished(self) -> int:
        """How many trials have been begun and not ended, here or elsewhere."""
        return sum(not trial.state.is_finished() for trial in self._trials())

    def claim(self, passed_over: Collection[int] = ()) -> Claim | None:
        """The next trial for this process: one whose owner has died, or a new one; None if there is none.

        Args:
            passed_over: Numbers of trials that this process has given back.
        """
        with self._locked():
            trials = self._trials()
            for frozen in trials:
                if frozen.state is not TrialState.RUNNING or frozen.number in passed_over:
                    continue
                if (lock := self._take(frozen.number)) is not None:
                    return self._claimed(Trial(self._study, frozen._trial_id), lock)
            if len(trials) >= self.total:
                return None
            self._study.sampler = samplers.sampler(self._settings.sampler, self._space, len(trials))
            self._study.pruner = samplers.pruner(self._settings.pruner)  # some samplers ask which it is
            trial = self._study.ask()
            lock = self._take(trial.number)
            assert lock is not None, "a new trial has no owner"
            return self._claimed(trial, lock)

    def _claimed(self, trial: Trial, lock: FileLock) -> Claim:
        """A trial with its overrides; of one that was claimed before they are known, or are drawn to their end."""
        overrides = trial.user_attrs.get("overrides")
        if overrides is None:
            overrides = [*self._space.suggest(trial), self._told(trial)]
            trial.set_user_attr("overrides", overrides)
        return Claim(trial.number, list(overrides), lock)

    def tell(self, claim: Claim, directory: RunDirectory | None) -> bool:
        """Tell the study what came of a trial: its values, that it was pruned, or that it failed.

        Args:
            claim: The trial.
            directory: Its job's; None for a job that could not be composed.

        Returns:
            Whether there was something to tell; a job that was interrupted or killed can be taken up again.

        Raises:
            UserError: if the job does not report an objective.
        """
        status = "failed" if directory is None else read_job(directory).status
        if status in _ENDED:
            state, values = self._outcome(directory)
            with self._locked():
                self._study.sampler = RandomSampler()  # others want to end Optuna's own loop; there is none
                self._study.tell(claim.number, values, state=state, skip_if_finished=True)
        self.release(claim)
        return status in _ENDED

    def release(self, claim: Claim) -> None:
        """Release a trial; one without a result can be claimed again."""
        claim.lock.release()

    def _outcome(self, directory: RunDirectory | None) -> tuple[TrialState | None, list[float] | None]:
        job = None if directory is None else read_job(directory)
        if job is not None and job.status == "pruned":
            return TrialState.PRUNED, None
        if job is None or job.status != "completed":
            return TrialState.FAIL, None
        missing = [name for name in self._settings.objectives if name not in job.metrics]
        if missing:
            known = ", ".join(sorted(job.metrics))
            raise UserError(
                f"hydra.sweeper.objectives names {missing[0]}, which jobs do not report; known: {known}."
            )
        values = [job.metrics[name] for name in self._settings.objectives]
        return (None, values) if all(map(isfinite, values)) else (TrialState.FAIL, None)

    def _trials(self) -> list[optuna.trial.FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _take(self, number: int) -> FileLock | None:
        lock = FileLock(self._folder / _LOCKS / f"{number}.lock", is_singleton=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        return lock

    def _locked(self) -> FileLock:
        return FileLock(self._folder / _LOCKS / "study.lock", timeout=_LOCK_SECONDS)

    def _told(self, trial: Trial) -> str:
        path = str(self._journal).replace("\\", "\\\\").replace("'", "\\'")
        prune = len(self._settings.objectives) == 1
        return f"sweep.trial={{journal:'{path}',number:{trial.number},prune:{str(prune).lower()}}}"

    def _opened(self) -> optuna.Study:
        settings = self._settings
        storage = journal.open_journal(self._journal)
        with suppress(DuplicatedStudyError):
            directions = [StudyDirection[each.upper()] for each in settings.objectives.values()]
            study = optuna.create_study(storage=storage, study_name=journal.STUDY, directions=directions)
            study.set_user_attr("objectives", dict(settings.objectives))
            study.set_user_attr("pruner", dict(settings.pruner))
            study.set_user_attr("fixed", list(job_key(self._space.fixed)))
        return optuna.load_study(study_name=journal.STUDY, storage=storage)

    def _require_the_same_search(self) -> None:
        known = self._study.user_attrs.get("objectives")
        requested = dict(self._settings.objectives)
        if known != requested or list(known) != list(requested):
            raise UserError(
                f"{self._journal} is of a search for {known}, not for {requested}; choose another sweep.name"
                f"{'.' if self._has_values() else ', or remove that file: none of its trials has a value yet.'}"
            )
        fixed = list(job_key(self._space.fixed))
        if self._study.user_attrs.get("fixed") != fixed:
            before = " ".join(self._study.user_attrs.get("fixed", []))
            now = " ".join(fixed)
            raise UserError(
                f"{self._journal} is of a search with {before}, not with {now}; choose another sweep.name."
            )
        if self._study.user_attrs.get("pruner") != dict(self._settings.pruner):
            self._study.set_user_attr("pruner", dict(self._settings.pruner))
        for trial in self._trials():
            for key, distribution in trial.distributions.items():
                self._require_compatible(key, distribution)

    def _has_values(self) -> bool:
        return any(trial.state is TrialState.COMPLETE for trial in self._trials())

    def _require_compatible(self, key: str, before: BaseDistribution) -> None:
        now = self._space.distributions.get(key)
        try:
            if now is not None:
                check_distribution_compatibility(before, now)
        except ValueError as error:
            raise UserError(
                f"{self._journal} has searched {key} over other values ({error}); choose another sweep.name."
            ) from error


def objectives_of(folder: Path) -> Sequence[str]:
    """The objectives of the search in a sweep's directory."""
    return tuple(journal.load_study(folder / journal.FILE).user_attrs.get("objectives", ()))
