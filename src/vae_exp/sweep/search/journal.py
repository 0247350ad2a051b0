"""The journal of a search: one study in one file beside its jobs, which many processes read and write."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from vae_exp.errors import UserError
from vae_exp.sweep.manifest import SEARCH

FILE = SEARCH
STUDY = "search"


def open_journal(path: Path) -> JournalStorage:
    """The storage in a file, which is made if it is not there; its lines are read when they are needed."""
    return JournalStorage(JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path))))


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """A block that reads a journal.

    Raises:
        UserError: if the file is no journal of Optuna's.
    """
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{path} is not the journal of a search ({reason}); choose another sweep.name, or move it away."
        ) from error


def load_study(path: Path, pruner: optuna.pruners.BasePruner | None = None) -> optuna.Study:
    """The study of a journal.

    Raises:
        UserError: if there is none, or if the file is no journal.
    """
    with readable(path):
        return optuna.load_study(study_name=STUDY, storage=open_journal(path), pruner=pruner)
