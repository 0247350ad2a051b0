"""The runs whose latent space the page may show."""

import base64
import binascii
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vae_exp.configuration.overrides import shell_word
from vae_exp.dashboard.explorer.options import ExploreOptions
from vae_exp.dashboard.explorer.run_process import MAX_LATENTS, RunProcess
from vae_exp.dashboard.runs.run import Run
from vae_exp.dashboard.runs.store import RunStore
from vae_exp.errors import UserError
from vae_exp.storage.run_directory import RunDirectory

_UNLOGGED = "directory:"  # and its number on the command line: the key of a run without a W&B file
_MAX_BASE64 = MAX_LATENTS * 4 * 4 // 3 + 4


class ExplorableRun(NamedTuple):
    """A run directory with a checkpoint.

    Args:
        key: The dashboard's name for it.
        name: The name that the page shows.
        path: The run directory.
        is_named: Whether the command line names it: then the server decodes where the page cannot.
    """

    key: str
    name: str
    path: Path
    is_named: bool


class ExplorerCatalog:
    """Finds runs, and has one process open them.

    Args:
        store: Its runs below its roots can be explored.
        options: Which runs the command line names, and how they are opened.
    """

    def __init__(self, store: RunStore, options: ExploreOptions) -> None:
        self._store = store
        self._named = [path.resolve() for path in options.paths]
        self._process = RunProcess(options)

    def runs(self) -> list[ExplorableRun]:
        """Those that are named first, then the latest."""
        with self._store.lock:
            stored = sorted(self._store.runs.values(), key=lambda run: -run.started)
            current = [_identity(run) for run in stored if not run.is_replaced]
        runs = [run for item in current if (run := self._explorable(*item)) is not None]
        shown = {run.path for run in runs}
        runs += [run for run in self._directories() if run.path not in shown]
        order = {path: number for number, path in enumerate(self._named)}
        return sorted(runs, key=lambda run: order.get(run.path, len(order)))

    def get(self, key: str) -> ExplorableRun | None:
        """The run with this key; None if there is none."""
        if key.startswith(_UNLOGGED):  # a page may have it from the time before the W&B file was read
            return next((run for run in self._directories() if run.key == key), None)
        with self._store.lock:
            run = self._store.runs.get(key)
            item = None if run is None else _identity(run)
        return None if item is None else self._explorable(*item)

    def _directories(self) -> list[ExplorableRun]:
        """The runs that are named, by their numbers."""
        return [
            ExplorableRun(f"{_UNLOGGED}{number}", f"{path.parent.name}/{path.name}", path, is_named=True)
            for number, path in enumerate(self._named, 1)
        ]

    def _explorable(self, key: str, name: str, directory: str) -> ExplorableRun | None:
        """A stored run if its directory is below a root, or named, and has a checkpoint."""
        try:
            path = Path(directory).resolve()
            is_explorable = directory and RunDirectory(path).checkpoints()
        except (OSError, ValueError, RuntimeError):  # no path of this system, a loop of links, or not permitted
            return None
        is_named = path in self._named
        is_below = is_named or self._store.is_below_a_root(directory)
        return ExplorableRun(key, name, path, is_named) if is_explorable and is_below else None

    def bundle(self, run: ExplorableRun) -> bytes:
        """What `bundle.make_bundle` makes.

        Raises:
            UserError: if the run cannot be opened.
        """
        return self._process.bundle(run.path)

    def decode(self, run: ExplorableRun, version: str, latents: str, label: int) -> bytes:
        """The mean image, uint8 `[channels, height, width]`.

        Args:
            run: One that the command line names.
            version: That of the bundle.
            latents: z as float32, in URL-safe base64.
            label: The class, for a conditional model.

        Raises:
            UserError: if the run is not named, or if the latents are not such a text; `RunChangedError` if the
                bundle has another version.
        """
        if not run.is_named:
            raise UserError(
                f"the decoder of this run needs the server, which decodes for runs that its command names alone: "
                f"python -m vae_exp.explore {shell_word('run', run.path)}"
            )
        try:
            data = base64.b64decode(latents[:_MAX_BASE64], altchars="-_", validate=True)
            numbers = np.frombuffer(data, "<f4")
        except (ValueError, binascii.Error) as error:
            raise UserError(f"z is no float32 numbers in base64: {error}") from error
        if not np.isfinite(numbers).all():
            raise UserError("z holds numbers that are not finite.")
        return self._process.decode(run.path, version, numbers.tolist(), label)

    def stop(self) -> None:
        """End the process."""
        self._process.stop()


def _identity(run: Run) -> tuple[str, str, str]:
    return run.key, run.label or run.info.name or run.run_id, run.directory


def is_decoded_by_page(bundle: bytes) -> bool:
    """Whether a bundle has the layers of its decoder."""
    length = int.from_bytes(bundle[:4], "little")
    return json.loads(bundle[4 : 4 + length])["decoder"] is not None
