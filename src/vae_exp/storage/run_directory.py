"""The names of the files that a run writes, and how they are written: whole or not at all."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from math import isfinite
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from vae_exp.errors import RunLockedError, UserError
from vae_exp.storage.plain_files import read_json

LATEST = "latest"  # in place of a run directory, the one that was written last
_STAYS = (".lock", "train.log", "output.log", "previous")  # when an attempt is set aside: open, or kept already
_TEMPORARY = ".*.[0-9]*.tmp"
_PATIENCE_SECONDS = 2  # with those who only look whether somebody holds a lock


@dataclass(frozen=True)
class RunDirectory:
    """A directory that holds all of a run.

    Args:
        path: The directory; relative paths are anchored at the working directory of the moment.
    """

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", absolute_path("run", str(self.path)))

    @property
    def config(self) -> Path:
        """The composed config, as Hydra writes it."""
        return self.path / ".hydra" / "config.yaml"

    @property
    def hydra_config(self) -> Path:
        """Hydra's own settings of the run; kept for the record, never applied again."""
        return self.path / ".hydra" / "hydra.yaml"

    @property
    def overrides(self) -> Path:
        """The overrides that the run was started with."""
        return self.path / ".hydra" / "overrides.yaml"

    @property
    def metrics(self) -> Path:
        """One JSON object per epoch."""
        return self.path / "metrics.jsonl"

    @property
    def result(self) -> Path:
        """Written last; its presence means that the run has ended."""
        return self.path / "result.json"

    @property
    def log(self) -> Path:
        """What the run said, with tracebacks."""
        return self.path / "train.log"

    @property
    def output(self) -> Path:
        """What a job of a pool printed, whichever library did."""
        return self.path / "output.log"

    @property
    def previous(self) -> Path:
        """Attempts of a job that were begun anew, each in a folder with its number."""
        return self.path / "previous"

    @property
    def figures(self) -> Path:
        """Figures of the training run, one PNG per name."""
        return self.path / "figures"

    @property
    def generated(self) -> Path:
        """What `generate` made, as PNG and `.npz`."""
        return self.path / "generated"

    def evaluation(self, split: str, checkpoint: str) -> Path:
        """What `evaluate` found of a checkpoint on a split; figures lie in the folder of the same name."""
        return self.path / "evaluation" / f"{split}-{checkpoint}.json"

    def checkpoint(self, name: str) -> Path:
        """The checkpoint `last` or `best`."""
        return self.path / "checkpoints" / f"{name}.pt"

    @property
    def lock(self) -> Path:
        """Held by the process that trains here."""
        return self.path / ".lock"

    def contains_run(self) -> bool:
        """Whether a run, of ours or of another Hydra program, has begun to write here.

        A run of ours takes the lock first and writes its config before all that counts: a lock without a config
        is what a killed start has left, in which the same command can start again.
        """
        traces = [self.config, self.result, self.figures, self.checkpoint("last").parent]
        if not self.lock.exists():
            traces += [self.config.parent, self.metrics, self.log]
        return any(trace.exists() for trace in traces)

    def require_free(self) -> None:
        """Refuse to start a run where there is one.

        Raises:
            UserError: says how to resume that run.
        """
        if self.contains_run():
            raise UserError(
                f"hydra.run.dir={self.path} already holds a run; resume it with resume={self.path}, or choose "
                f"another directory."
            )

    def archive_attempt(self) -> None:
        """Move what an attempt has left into `previous/<number>`, but for its log; only the owner may."""
        numbers = [int(path.name) for path in self.previous.glob("*") if path.name.isdecimal()]
        target = self.previous / str(max(numbers, default=0) + 1)
        target.mkdir(parents=True)
        for path in self.path.iterdir():
            if path.name not in _STAYS:
                path.rename(target / path.name)

    def is_locked(self) -> bool:
        """Whether a living process trains here."""
        if not self.lock.exists():
            return False
        lock = FileLock(self.lock)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        except OSError:  # a folder that we may not write to
            return False
        lock.release()
        return False

    def remove_temp_files(self) -> None:
        """Remove the temporary files of processes that were killed; only the owner may."""
        names = (".hydra", "checkpoints", "figures", "evaluation", "generated")
        found = [path for name in names for path in (self.path / name).rglob(_TEMPORARY)]
        for leftover in (*self.path.glob(_TEMPORARY), *found):
            leftover.unlink(missing_ok=True)

    def read_result(self) -> dict[str, Any] | None:
        """The contents of `result.json`; None while there is none.

        Raises:
            UserError: if the file is there and is not a JSON object.
        """
        try:
            result = read_json(self.result)
        except FileNotFoundError:
            return None
        if not isinstance(result, dict):
            raise UserError(f"{self.result} holds {type(result).__name__}; expected a JSON object.")
        return result


def resumed_checkpoint(value: str) -> Path:
    """The checkpoint that `resume=…` names: a run directory's `last.pt`, or the file itself."""
    path = absolute_path("resume", value)
    return path if path.suffix == ".pt" else RunDirectory(path).checkpoint("last")


def resumed_directory(value: str) -> RunDirectory:
    """The run directory that `resume=…` names, by itself or by one of its checkpoints."""
    return RunDirectory(resumed_checkpoint(value).parent.parent)


@contextmanager
def lock_run_directory(directory: RunDirectory) -> Iterator[None]:
    """For the length of a block no other process trains in this directory; a dead process owns nothing.

    Raises:
        InUseError: if another process does.
    """
    lock = FileLock(directory.lock)
    try:
        lock.acquire(timeout=_PATIENCE_SECONDS)
    except Timeout:
        raise RunLockedError(
            f"another process is training in {directory.path}; wait for its end or stop it."
        ) from None
    try:
        yield
    finally:
        lock.release()


def find_latest_run(key: str) -> Path:
    """The run directory below `outputs` whose checkpoint was written last; it is printed.

    Raises:
        UserError: if there is none; names the key that asked for it.
    """
    checkpoints = list(Path("outputs").glob("**/checkpoints/last.pt"))
    if not checkpoints:
        raise UserError(f"{key}={LATEST}: no run in outputs has a checkpoint; name its directory.")
    run = max(checkpoints, key=lambda path: path.stat().st_mtime).parent.parent
    print(f"The latest run is {run}", flush=True)
    return run


def claim_directory(path: Path) -> Path:
    """Make a directory that no other process has: `path`, or `path-2`, `path-3`, … where it exists."""
    for number in count(1):
        candidate = path if number == 1 else path.with_name(f"{path.name}-{number}")
        try:
            candidate.mkdir(parents=True)
        except FileExistsError:
            continue
        return candidate
    raise AssertionError("unreachable")


def absolute_path(key: str, value: str) -> Path:
    """The path that a user gave, `~` expanded, anchored at the working directory of the moment.

    Raises:
        UserError: if it names a home folder that does not exist.
    """
    try:
        return Path(os.path.abspath(Path(value).expanduser()))  # noqa: PTH100 - also resolves ..
    except RuntimeError as error:
        raise UserError(f"{key}={value} names a home folder that does not exist.") from error


def require_inside(path: Path, folder: Path) -> None:
    """Refuse to write through a link that leads out of a folder, or into a pipe or a device.

    Raises:
        UserError: names the path and where it leads.
    """
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{path} leads out of {folder}, to {path.resolve()}; refused.")
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UserError(f"{path} is neither a file nor a folder; refused.")


def require_all_inside(folder: Path) -> None:
    """`require_inside` for all that a folder holds."""
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            require_inside(Path(parent, name), folder)


def require_writable(path: Path, key: str) -> None:
    """Make sure that files can be written into a directory, or into one that can be made there.

    Raises:
        UserError: names the key and the reason; a directory made for the trial is removed again.
    """
    made = [each for each in (path, *path.parents) if not each.exists()]
    try:
        try:
            _write_probe(path)
        except FileNotFoundError:  # another process has just tidied up after a trial of its own
            _write_probe(path)
    except OSError as error:
        raise UserError(f"{key}={path} cannot be written to: {error}.") from error
    finally:
        for each in made:
            with suppress(OSError):  # in use by now
                each.rmdir()


def _write_probe(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path) as probe:
        probe.write(b"0" * 4096)


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Let `write` fill a temporary file, flush it to the disk, then give it its name.

    A reader sees the old file or the new one, never a part; after a failure the old one stands.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_to_user_path(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """`write_atomically` for a path that a user names: links are followed, devices and pipes written into."""
    path = path.resolve()
    if path.exists() and not path.is_file() and not path.is_dir():
        with path.open("wb") as file:
            write(file)
    else:
        write_atomically(path, write)


def fsync_directory(folder: Path) -> None:
    """Flush the names in a folder to the disk, so that they outlive a loss of power."""
    with suppress(OSError):  # a file system that does not know this
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object atomically; numbers that JSON does not know (NaN, infinities) become null."""
    text = json.dumps(_strict(content), indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def merge_json(path: Path, what: Mapping[str, Any], parts: Mapping[str, Mapping[str, Any]]) -> None:
    """Write `what` and `parts`; parts that the file has of the very same `what` stay beside the new ones."""
    try:
        before = read_json(path)
    except (FileNotFoundError, UserError):
        before = {}
    same = isinstance(before, dict) and all(before.get(key) == value for key, value in what.items())
    merged = {key: {**(before.get(key, {}) if same else {}), **part} for key, part in parts.items()}
    write_json(path, {**what, **merged})


def to_json_line(content: Mapping[str, Any]) -> str:
    """One line of strict JSON."""
    return json.dumps(_strict(content), allow_nan=False) + "\n"


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _strict(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(entry) for entry in value]
    if isinstance(value, float) and not isfinite(value):
        return None
    return value
