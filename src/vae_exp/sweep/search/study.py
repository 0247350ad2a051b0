"""The study of a search: leases on its trials, and their results."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import isfinite, prod
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.distributions import check_distribution_compatibility
from optuna.exceptions import DuplicatedStudyError
from optuna.samplers import RandomSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from vae_exp.configuration.overrides import quote_value
from vae_exp.configuration.renames import rename_override
from vae_exp.errors import UserError
from vae_exp.metrics import current_metric, higher_is_better, with_current_metrics
from vae_exp.storage.run_directory import RunDirectory
from vae_exp.sweep.job_records import JobRecord, read_job
from vae_exp.sweep.manifest import STUDY_FILE, job_key
from vae_exp.sweep.search import samplers
from vae_exp.sweep.search.space import Space

DIRECTIONS = ("minimize", "maximize")
_STUDY = "search"
_TRIAL = "sweep.trial="
_TEXTS = "overrides"  # of a trial whose values are drawn; earlier versions stored the fixed ones too
_LOCK_SECONDS = 60
_LOCKS = ".trials"
_ENDED = ("completed", "pruned", "failed", "diverged")


def _open_storage(path: Path) -> JournalStorage:
    """Optuna's journal in a file, which is created if it is missing; many processes read and write it."""
    return JournalStorage(JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path))))


def _remove_torn_line(path: Path) -> None:
    """Remove what a kill or a full disk has left of a line at the end of a journal; Optuna would append to it."""
    lock = JournalFileOpenLock(str(path))
    if not path.exists() or path.read_bytes()[-1:] in (b"", b"\n"):
        return
    lock.acquire()
    try:
        whole = path.read_bytes().rfind(b"\n") + 1
        if whole:  # or else it may be no journal
            os.truncate(path, whole)
    finally:
        lock.release()


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """A block that reads the file of a study.

    Raises:
        UserError: if it is not a journal of Optuna's.
    """
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{path} is not the journal of a search ({reason}); choose another sweep.name, or move it away."
        ) from error


def load_study(path: Path) -> optuna.Study:
    """Load the study in a file.

    Raises:
        UserError: if there is none, or if the file is not a journal.
    """
    with _readable(path):
        return optuna.load_study(study_name=_STUDY, storage=_open_storage(path))


@dataclass(frozen=True)
class SearchConfig:
    """Options of a search.

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
        return {name: DIRECTIONS[higher_is_better(name)] for name in map(current_metric, objectives)}
    if len(directions) != len(objectives):
        raise UserError(
            f"hydra.sweeper.directions={list(directions)} must have one for each of "
            f"hydra.sweeper.objectives={list(objectives)}."
        )
    return dict(zip(map(current_metric, objectives), directions, strict=True))


@dataclass
class TrialLease:
    """A trial that this process runs.

    Args:
        number: Its number, and its job's.
        overrides: Its job's.
        lock: Held while it runs; a dead process holds none.
    """

    number: int
    overrides: list[str]
    lock: FileLock


class TrialScheduler:
    """A study beside the jobs of a sweep. Several processes may work on it at once.

    Args:
        folder: The sweep's directory.
        settings: Its options.
        space: What is searched.

    Raises:
        UserError: if the journal is damaged, or of a search for something else.
    """

    def __init__(self, folder: Path, settings: SearchConfig, space: Space) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._folder, self._settings, self._space = folder, settings, space
        samplers.sampler(settings.sampler, space, 0)  # refuses what it cannot take before anything is written
        self._path = (folder / STUDY_FILE).absolute()
        (folder / _LOCKS).mkdir(parents=True, exist_ok=True)
        self.total = settings.n_trials
        if settings.sampler.get("name") == "grid":
            self.total = min(self.total, prod(map(len, space.grid().values())))
        with self._locked(), _readable(self._path):
            self._study = self._open_study()
            self._check_same_search()

    def counts(self) -> Counter[TrialState]:
        """How many trials there are in each state, those of other processes among them."""
        return Counter(trial.state for trial in self._trials())

    def unfinished(self) -> int:
        """How many trials this command, given again, would continue."""
        return sum(map(self._can_be_resumed, self._trials()))

    def lease(self) -> TrialLease | None:
        """The next trial for this process: one whose owner has died, or a new one; None if there is none.

        A trial with the overrides of an earlier one needs no job: it gets the result of that trial.
        """
        with self._locked():
            self._answer_duplicates()
            duplicates = self._originals()
            for frozen in self._trials():
                if self._can_be_resumed(frozen) and frozen.number not in duplicates:
                    lock = self._take(frozen.number)
                    if lock is not None:
                        self._use_samplers_of(frozen.number)  # its values may not be drawn yet
                        return self._lease(Trial(self._study, frozen._trial_id), lock)
            while (number := len(self._trials())) < self.total:
                self._use_samplers_of(number)
                trial = self._study.ask()
                lock = self._take(trial.number)
                assert lock is not None, "a new trial has no owner"
                lease = self._lease(trial, lock)
                if trial.number not in self._originals():
                    return lease
                lock.release()
                self._answer_duplicates()
        return None

    def _use_samplers_of(self, number: int) -> None:
        """Seed the study for a trial."""
        self._study.sampler = samplers.sampler(self._settings.sampler, self._space, number)
        self._study.pruner = samplers.pruner(self._settings.pruner)  # some samplers ask which it is

    def _can_be_resumed(self, trial: FrozenTrial) -> bool:
        """Whether a trial is unfinished, and of this search: with a key that it lacks it waits for its command."""
        return trial.state is TrialState.RUNNING and trial.params.keys() <= self._space.distributions.keys()

    def _lease(self, trial: Trial, lock: FileLock) -> TrialLease:
        """A trial with its overrides: the fixed ones of this search, and its values, which are drawn once.

        The texts in the journal, which another person may have written, are not used.
        """
        overrides = self._space.suggest(trial, trial.params if _TEXTS in trial.user_attrs else ())
        trial.set_user_attr(_TEXTS, overrides[len(self._space.fixed) :])
        return TrialLease(trial.number, [*overrides, self._trial_override(trial)], lock)

    def _searched(self, trial: FrozenTrial) -> tuple[str, ...]:
        """The overrides of a trial at the searched keys; none before they are drawn, or if it has others."""
        if not trial.params.keys() <= self._space.distributions.keys():
            return ()
        texts = map(str, trial.user_attrs.get(_TEXTS) or ())
        return tuple(text for text in texts if text.partition("=")[0] in self._space.distributions)

    def _originals(self) -> dict[int, FrozenTrial]:
        """By the number of an unfinished trial, the earlier trial with the same overrides."""
        first: dict[tuple[str, ...], FrozenTrial] = {}
        originals = {}
        for trial in self._trials():
            if overrides := self._searched(trial):
                original = first.setdefault(overrides, trial)
                if original is not trial and not trial.state.is_finished():
                    originals[trial.number] = original
        return originals

    def _answer_duplicates(self) -> None:
        """Give duplicates of finished trials their results; the study must be locked."""
        for number, original in self._originals().items():
            if original.state.is_finished():
                is_complete = original.state is TrialState.COMPLETE
                self._set_result(number, original.state, original.values if is_complete else None)

    def _set_result(self, number: int, state: TrialState | None, values: Sequence[float] | None) -> None:
        self._study.sampler = RandomSampler()  # others want to end Optuna's own loop; there is none
        self._study.tell(number, values, state=state, skip_if_finished=True)

    def tell(self, lease: TrialLease, directory: RunDirectory | None) -> bool:
        """Tell the study the result of a trial: its values, that it was pruned, or that it failed.

        Args:
            lease: The trial; it is released if its job has ended.
            directory: Its job's; None for a job that could not be composed.

        Returns:
            Whether the job has ended; one that was interrupted or killed can be resumed.

        Raises:
            UserError: if the job does not report an objective.
        """
        job = None if directory is None else read_job(directory)
        if job is not None and job.status not in _ENDED:
            return False
        state, values = self._outcome(job)
        with self._locked():
            self._set_result(lease.number, state, values)
            self._answer_duplicates()
        self.release(lease)
        return True

    def release(self, lease: TrialLease) -> None:
        """Release a trial; one without a result can be leased again."""
        lease.lock.release()

    def _outcome(self, job: JobRecord | None) -> tuple[TrialState | None, list[float] | None]:
        if job is None or job.status != "completed":
            return TrialState.PRUNED if job is not None and job.status == "pruned" else TrialState.FAIL, None
        missing = [name for name in self._settings.objectives if name not in job.metrics]
        if missing:
            available = ", ".join(sorted(job.metrics))
            raise UserError(
                f"hydra.sweeper.objectives names {missing[0]}, which jobs do not report; known: {available}."
            )
        values = [job.metrics[name] for name in self._settings.objectives]
        return (None, values) if all(map(isfinite, values)) else (TrialState.FAIL, None)

    def _trials(self) -> list[FrozenTrial]:
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

    def _trial_override(self, trial: Trial) -> str:
        path, prune = quote_value(str(self._path)), str(len(self._settings.objectives) == 1).lower()
        return f"{_TRIAL}{{storage:{path},number:{trial.number},prune:{prune}}}"

    def _open_study(self) -> optuna.Study:
        settings = self._settings
        _remove_torn_line(self._path)
        with suppress(DuplicatedStudyError):
            directions = [StudyDirection[name.upper()] for name in settings.objectives.values()]
            storage = _open_storage(self._path)
            study = optuna.create_study(storage=storage, study_name=_STUDY, directions=directions)
            study.set_user_attr("objectives", dict(settings.objectives))
            study.set_user_attr("pruner", dict(settings.pruner))
            study.set_user_attr("fixed", list(job_key(self._space.fixed)))
        return load_study(self._path)

    def _check_same_search(self) -> None:
        stored = with_current_metrics(self._study.user_attrs.get("objectives", {}))
        requested = dict(self._settings.objectives)
        if stored != requested or list(stored) != list(requested):
            raise UserError(
                f"{self._path} is of a search for {stored}, not for {requested}; choose another sweep.name."
            )
        before = job_key([rename_override(override) for override in self._study.user_attrs.get("fixed", [])])
        now = job_key(self._space.fixed)
        if before != now:
            raise UserError(
                f"{self._path} is of a search with {' '.join(before)}, not with {' '.join(now)}; "
                f"choose another sweep.name."
            )
        if self._study.user_attrs.get("pruner") != dict(self._settings.pruner):
            self._study.set_user_attr("pruner", dict(self._settings.pruner))
        for key, stored_values in (item for trial in self._trials() for item in trial.distributions.items()):
            current = rename_override(f"{key}=").removesuffix("=")
            if current != key:
                raise UserError(
                    f"{self._path} has searched {key}, which is {current} now, and the sampler would not see "
                    f"these trials; choose another sweep.name."
                )
            try:
                requested_values = self._space.distributions.get(key, stored_values)
                check_distribution_compatibility(stored_values, requested_values)
            except ValueError as error:
                raise UserError(
                    f"{self._path} has searched {key} over other values ({error}); choose another sweep.name."
                ) from error
