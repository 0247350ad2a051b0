"""The dashboard as one HTML file: the same page, its script, style and numbers inside, no network."""

import base64
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vae_exp.dashboard import page, wire
from vae_exp.dashboard.media import NoPictureError, read_picture
from vae_exp.dashboard.run import Run
from vae_exp.dashboard.store import Store
from vae_exp.errors import UserError
from vae_exp.run_directory import write_where_asked

_ENDS_SCRIPT = re.compile(r"</(?=script)|<!--", re.IGNORECASE)
_PATH = re.compile(r"^(?:/|~|[A-Za-z]:\\|\\\\|file:)")
_LEFT_OUT = "(left out)"
_NAMES = ("host", "username", "email")
_LEAST_OF_A_NAME = 3
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
    store.refresh()
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
    data = wire.encoded(_data(store, runs, private, most_bytes))
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
    changes = wire.changes(store, 0)
    if not private:
        names = _names(runs)
        changes["runs"] = [_without_places(row, names) for row in changes["runs"]]
    return {
        "changes": changes | {"waiting": 0},
        "curves": {
            each: [curve for run in runs for curve in wire.curves([run], run.keys, each)]
            for each in wire.ABSCISSAS
        },
        "pictures": _pictures(runs, most_bytes),
        "details": {run.key: wire.details(run, private) for run in runs},
    }


def _pictures(runs: Sequence[Run], most_bytes: float) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    size = 0
    for run in runs:
        found[run.key] = []
        for described, picture in zip(wire.pictures(run), run.pictures, strict=True):
            try:
                data, media_type = read_picture(picture)
            except NoPictureError:
                continue
            size += len(data) * 4 // 3
            if size > most_bytes:
                raise UserError(_too_large(size / _MEGABYTE, most_bytes / _MEGABYTE))
            found[run.key].append(
                described | {"data": f"data:{media_type};base64,{base64.b64encode(data).decode()}"}
            )
    return found


def _too_large(size: float, most: float) -> str:
    return (
        f"the page would have more than {size:.0f} MB, and --size-limit is {most:g}; export fewer runs (name "
        "their folders), or raise the limit."
    )


def _names(runs: Sequence[Run]) -> set[str]:
    """What the machines and users are called that the runs were started on and by."""
    found = {str(run.environment.get(key, "")) for run in runs for key in _NAMES}
    return {name for name in found if len(name) >= _LEAST_OF_A_NAME}


def _without_places(row: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """A row without values that say where something lies, on which machine, and whose it is."""
    told = {
        part: {key: _hidden(value, names) for key, value in row[part].items()} for part in ("config", "summary")
    }
    return row | told


def _hidden(value: Any, names: set[str]) -> Any:
    if isinstance(value, str):
        return _LEFT_OUT if _PATH.match(value) or any(name in value for name in names) else value
    if isinstance(value, list):
        return [_hidden(each, names) for each in value]
    return {key: _hidden(each, names) for key, each in value.items()} if isinstance(value, dict) else value


def _inline(script: str) -> str:
    """A script that may stand inside of a script element: inside of strings alone it could end one."""
    return _ENDS_SCRIPT.sub(lambda found: "<\\" + found[0][1:] if found[0] != "<!--" else "<\\!--", script)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _write(path: Path, html: bytes) -> None:
    try:
        write_where_asked(path, lambda file: file.write(html))
    except OSError as error:
        raise UserError(f"--export={path} cannot be written: {error}.") from error
