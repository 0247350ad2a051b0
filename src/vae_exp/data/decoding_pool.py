"""Image files decoded by a pool of processes, with a progress bar."""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from vae_exp.data.image_cache import create_npy
from vae_exp.data.image_decoding import (
    Header,
    ImageFile,
    PixelFormat,
    ignore_interrupts,
    read_headers,
    write_rows,
)
from vae_exp.errors import UserError

_log = logging.getLogger(__name__)
_POOL_FROM = 200  # images; below, starting processes takes longer than decoding
_CHUNK = 64  # images that a process takes at a time
_IDLE_SECONDS = 30  # after which a process ends whose main process was killed
_LINE_SECONDS = 30

T = TypeVar("T")


def scan_headers(files: Sequence[ImageFile], content: str) -> list[Header]:
    """The size of each image, and whether it is grey, by a pool of processes."""
    with _executor(len(files)) as submit:
        tasks = [submit(read_headers, part) for part in _chunks(files)]
        for _ in show_progress(as_completed(tasks), f"Reading the sizes of {content}", len(files), _one_chunk):
            pass
        return [header for task in tasks for header in task.result()]


def decode_images(
    path: Path, files: Sequence[ImageFile], pixel_format: PixelFormat, content: str
) -> dict[int, str]:
    """Decode images into a `.npy` file, by a pool of processes.

    Args:
        path: The file to write.
        files: Paths or contents of image files.
        pixel_format: What the images become.
        content: What they are, for the bar.

    Returns:
        The rows that cannot be read, which stay zero, each with the reason.

    Raises:
        OSError: if the file cannot be written.
    """
    offset = create_npy(path, (len(files), *pixel_format.shape))
    problems: dict[int, str] = {}
    with _executor(len(files)) as submit:
        tasks = [
            submit(write_rows, str(path), offset, number * _CHUNK, part, pixel_format)
            for number, part in enumerate(_chunks(files))
        ]
        for task in show_progress(as_completed(tasks), f"Decoding {content}", len(files), _one_chunk):
            problems |= task.result()
    return dict(sorted(problems.items()))


def _chunks(files: Sequence[ImageFile]) -> list[Sequence[ImageFile]]:
    return [files[start : start + _CHUNK] for start in range(0, len(files), _CHUNK)]


def _one_chunk(task: object) -> int:
    return _CHUNK


@contextmanager
def _executor(count: int) -> Iterator[Callable[..., Future[Any]]]:
    """A function that submits work to as many processes as there are cores, or does little work at once."""
    if count < _POOL_FROM:
        yield _call
        return
    from joblib.externals.loky import ProcessPoolExecutor, cpu_count  # starts processes without the user's script

    executor = ProcessPoolExecutor(cpu_count(), timeout=_IDLE_SECONDS, initializer=ignore_interrupts)
    finished = False
    try:
        yield executor.submit
        finished = True
    except BrokenProcessPool as error:
        raise UserError(
            f"a process that decodes images has ended ({error}); if memory was short, free some and start again."
        ) from error
    finally:
        executor.shutdown(wait=True, kill_workers=not finished)


def _call(function: Callable[..., T], *arguments: Any) -> Future[T]:
    done: Future[T] = Future()
    done.set_result(function(*arguments))
    return done


def show_progress(parts: Iterable[T], title: str, total: int, size: Callable[[T], int]) -> Iterator[T]:
    """Yield all parts; a bar with the time left on a terminal, a line every 30 s elsewhere."""
    if sys.stdout is not None and sys.stdout.isatty():
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns, transient=True) as bar:
            task = bar.add_task(title, total=total)
            for part in parts:
                yield part
                bar.advance(task, size(part))
        return
    done, next_line = 0, time.monotonic() + _LINE_SECONDS
    for part in parts:
        yield part
        done = min(total, done + size(part))
        if time.monotonic() >= next_line:
            next_line = time.monotonic() + _LINE_SECONDS
            _log.info("%s: %d of %d.", title, done, total)
