"""The dashboard as one HTML file: the same page, its script, style and numbers inside, no network."""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vae_exp.dashboard.runs.media import ImageUnavailableError, read_picture
from vae_exp.dashboard.runs.run import PictureFile, Run
from vae_exp.dashboard.runs.store import Store
from vae_exp.dashboard.web import api, page
from vae_exp.dashboard.web.redaction import Redactor
from vae_exp.errors import UserError
from vae_exp.storage.run_directory import write_to_user_path

_ENDS_SCRIPT = re.compile(r"</(?=script)|<!--", re.IGNORECASE)
_NO_REFERRER = '<meta name="referrer" content="no-referrer">'
_MEGABYTE = 1_000_000


def export(roots: Sequence[Path], path: Path, private: bool, most_megabytes: float) -> str:
    """Write the runs below some folders into one page.

    Args:
        roots: Where runs are looked for.
        path: The file.
        private: Whether console, environment and absolute paths, which may name people and places, are left in.
        most_megabytes: A larger file is not written.

    Returns:
        What was written, in words.

    Raises:
        UserError: if there are no runs, the file would be too large, or it cannot be written.
    """
    store = Store(roots)
    store.read_all()
    if not store.runs:
        raise UserError(f"there are no .wandb files below {', '.join(map(str, roots))}.")
    html = document(store, private, most_megabytes * _MEGABYTE)
    size = len(html) / _MEGABYTE
    if size > most_megabytes:
        raise UserError(_too_large(size, most_megabytes))
    _write(path, html)
    return f"{len(store.runs)} runs, {size:.1f} MB, written to {path}"


def document(store: Store, private: bool, most_bytes: float = float("inf")) -> bytes:
    """The page.

    Args:
        store: Has been read.
        private: Whether what may name people and places is left in.
        most_bytes: Pictures beyond that raise an error.
    """
    runs = list(store.runs.values())
    data = api.encoded(_data(store, runs, private, most_bytes))
    scripts = [_inline(page.plotly()), _inline(page.script())]
    style = page.style()
    policy = (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"script-src {' '.join(_hash(script) for script in scripts)}; "
        f"style-src-elem {_hash(style)} {_hash('')}; style-src-attr 'unsafe-inline'"
    )
    html = page.filled(
        policy=f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n{_NO_REFERRER}',
        style=f"<style>{style}</style>",
        data=f'<script type="application/json" id="embedded">{data}</script>',
        scripts="\n".join(f"<script>{script}</script>" for script in scripts),
    )
    return html.encode()


def _data(store: Store, runs: Sequence[Run], private: bool, most_bytes: float) -> dict[str, Any]:
    discretion = None if private else Redactor(runs)
    known = {run.key: _key(run, number, discretion) for number, run in enumerate(runs, 1)}
    changes = api.changes(store, 0) | {"waiting": 0}
    changes["runs"] = [row | {"key": known[row["key"]]} for row in changes["runs"]]
    told = {
        "changes": changes,
        "pictures": {known[run.key]: api.pictures(run) for run in runs},
        "details": {known[run.key]: api.details(run, private) | {"key": known[run.key]} for run in runs},
    }
    curves = {
        each: [curve | {"run": known[run.key]} for run in runs for curve in api.curves([run], run.keys, each)]
        for each in api.ABSCISSAS
    }
    if discretion is not None:
        told = discretion.of(told)
        for curve in (curve for each in curves.values() for curve in each):
            curve["metric"] = discretion.of_key(curve["metric"])
    pictures = [run.pictures for run in runs]
    return told | {"curves": curves, "pictures": _with_files(told["pictures"], pictures, most_bytes)}


def _key(run: Run, number: int, discretion: Redactor | None) -> str:
    """What the page calls a run: as the dashboard does, unless that names somebody."""
    return run.key if discretion is None or discretion.of(run.key) == run.key else f"run{number}"


def _with_files(
    described: Mapping[str, Sequence[dict[str, Any]]],
    pictures: Sequence[Sequence[PictureFile]],
    most_bytes: float,
) -> dict[str, list[dict[str, Any]]]:
    """Descriptions of the runs' pictures with their bytes; those without a file are left out."""
    found: dict[str, list[dict[str, Any]]] = {}
    size = 0
    for (key, descriptions), files in zip(described.items(), pictures, strict=True):
        found[key] = []
        for words, picture in zip(descriptions, files, strict=True):
            try:
                data, media_type = read_picture(picture)
            except ImageUnavailableError:
                continue
            size += len(data) * 4 // 3
            if size > most_bytes:
                raise UserError(_too_large(size / _MEGABYTE, most_bytes / _MEGABYTE))
            found[key].append(words | {"data": f"data:{media_type};base64,{base64.b64encode(data).decode()}"})
    return found


def _too_large(size: float, most: float) -> str:
    return (
        f"the page would have more than {size:.0f} MB, and --size-limit is {most:g}; export fewer runs (name "
        "their folders), or raise the limit."
    )


def _inline(script: str) -> str:
    """A script that may stand inside of a script element: inside of strings alone it could end one."""
    return _ENDS_SCRIPT.sub(lambda found: "<\\" + found[0][1:] if found[0] != "<!--" else "<\\!--", script)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _write(path: Path, html: bytes) -> None:
    try:
        write_to_user_path(path, lambda file: file.write(html))
    except OSError as error:
        raise UserError(f"--export={path} cannot be written: {error}.") from error
