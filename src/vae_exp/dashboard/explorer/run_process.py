"""A process that opens runs with torch, and decodes where the page cannot; the server itself imports no torch."""

import logging
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import lru_cache
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from vae_exp.dashboard.explorer.options import ExploreOptions
from vae_exp.errors import UserError
from vae_exp.storage.run_directory import RunDirectory

if TYPE_CHECKING:
    from collections.abc import Callable

    from vae_exp.runs.trained_run import TrainedRun

MAX_LATENTS = 4_096  # numbers of a request
_MAX_OPEN_RUNS = 4

Result = TypeVar("Result")


class RunChangedError(UserError):
    """The run has other checkpoints than the bundle that the page has."""


class RunProcess:
    """One process for all requests, started with the first; if it dies, the next request starts another.

    Args:
        options: How runs are opened.
    """

    def __init__(self, options: ExploreOptions) -> None:
        self._options = replace(options, paths=())
        self._lock = threading.Lock()
        self._pool: ProcessPoolExecutor | None = None
        self._alive: Connection | None = None  # the process ends when this is closed

    def bundle(self, run: Path) -> bytes:
        """What `bundle.make_bundle` makes of a run directory.

        Raises:
            UserError: as `load_run` does, whatever the model raises, and if the process dies.
        """
        return self._call(_bundle, str(run), self._options, _version_of(run, self._options.checkpoint))

    def decode(self, run: Path, version: str, latents: Sequence[float], label: int) -> bytes:
        """The mean image E[x|z]: uint8 values `[channels, height, width]`.

        Args:
            run: The run directory.
            version: That of the bundle.
            latents: z.
            label: The class, for a conditional model.

        Raises:
            UserError: as `bundle`, and if the number of latents or the label is wrong; `RunChangedError` if the
                bundle has another version.
        """
        if version != _version_of(run, self._options.checkpoint):
            raise RunChangedError("the run has a newer checkpoint than the page shows.")
        return self._call(_decode, str(run), self._options, version, tuple(latents), label)

    def stop(self) -> None:
        """End the process, whatever it does."""
        with self._lock:
            if self._pool is not None and self._alive is not None:
                self._alive.close()
                self._pool.shutdown(wait=False, cancel_futures=True)
                self._pool = None

    def _start(self) -> ProcessPoolExecutor:
        context = get_context("spawn")
        reader, self._alive = context.Pipe(duplex=False)
        return ProcessPoolExecutor(1, context, _prepare, (reader,))

    def _call(self, function: "Callable[..., Result]", *args: object) -> Result:
        with self._lock:
            pool = self._pool = self._pool or self._start()
        try:
            return pool.submit(function, *args).result()
        except BrokenProcessPool as error:
            with self._lock:
                if self._pool is pool:
                    self._pool = None
            raise UserError("the process that opens runs has ended; is there too little memory?") from error
        except UserError:
            raise
        except ValueError as error:  # distributions, JSON and linear algebra refuse numbers that are not finite
            raise UserError(f"the run cannot be shown; its weights may have diverged: {error}") from error
        except Exception as error:  # models of users raise what they like
            raise UserError(f"the run cannot be shown: {type(error).__name__}: {error}") from error


def _version_of(run: Path, checkpoint: str | None) -> str:
    """What changes when the checkpoint that is opened is replaced."""
    directory = RunDirectory(run)
    names = [name for name in directory.checkpoints() if checkpoint in (None, name)][:1]
    return "".join(f"{name}-{directory.checkpoint(name).stat().st_mtime_ns:x}" for name in names)


def _prepare(server: Connection) -> None:
    import signal

    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the server, and with it this process
    threading.Thread(target=_exit_with_server, args=(server,), daemon=True).start()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)


def _exit_with_server(server: Connection) -> None:
    """Exit when the server closes its end, or is killed; the request of the moment may last for minutes."""
    server.poll(None)
    os._exit(0)


@lru_cache(_MAX_OPEN_RUNS)
def _open(run: str, options: ExploreOptions, version: str) -> "TrainedRun":
    from vae_exp.runs.trained_run import load_run

    return load_run(
        run,
        trusted_packages=options.trusted_packages,
        checkpoint=options.checkpoint,
        data={"root": options.data_root, "path": options.data_path},
    )


@lru_cache(_MAX_OPEN_RUNS)
def _bundle(run: str, options: ExploreOptions, version: str) -> bytes:
    from vae_exp.cli.console import naming_command
    from vae_exp.dashboard.explorer.bundle import make_bundle

    opened = naming_command(_open(run, options, version), "explore", ())
    return make_bundle(opened, version, has_labels=options.has_labels, has_paths=options.has_paths)


def _decode(run: str, options: ExploreOptions, version: str, latents: tuple[float, ...], label: int) -> bytes:
    import torch

    vae = _open(run, options, version).vae
    shape = vae.prior().event_shape
    classes = int(getattr(vae, "classes", 1))
    if len(latents) != shape.numel() or not 0 <= label < classes:
        raise UserError(f"the decoder takes {shape.numel()} latents, and labels below {classes}.")
    with torch.no_grad():
        batch = torch.tensor(latents, dtype=torch.float32).reshape(1, *shape)
        mean = vae.decode(batch, torch.tensor([label]) if vae.needs_labels else None).mean[0]
    values = mean.clamp(0, 1).mul(255).round().to(torch.uint8)
    return bytes(np.ascontiguousarray(values.numpy()).tobytes())
