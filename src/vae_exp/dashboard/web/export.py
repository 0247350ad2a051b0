"""The dashboard as one HTML file: the same page with its script, style and numbers inside, no network."""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vae_exp.dashboard.explorer.catalog import ExplorerCatalog, is_decoded_by_page
from vae_exp.dashboard.explorer.options import ExploreOptions
from vae_exp.dashboard.runs.media import ImageFile, ImageUnavailableError, read_picture
from vae_exp.dashboard.runs.run import Run
from vae_exp.dashboard.runs.run_tables import last_attempts, read_store
from vae_exp.dashboard.runs.store import RunStore
from vae_exp.dashboard.web import api, page
from vae_exp.dashboard.web.redaction import Redactor
from vae_exp.errors import UserError, quantity
from vae_exp.storage.output_files import output_errors, write_to_user_path

_ENDS_SCRIPT = re.compile(r"</(?=script)|<!--", re.IGNORECASE)
_NO_REFERRER = '<meta name="referrer" content="no-referrer">'
_MEGABYTE = 1_000_000
_NO_RUNS = ExploreOptions()


class PageTooLargeError(UserError):
    """The page would be larger than its limit; commands add what to do about it."""


def export(
    roots: Sequence[Path],
    path: Path,
    options: ExploreOptions = _NO_RUNS,
    *,
    key: str = "--export",
    private: bool,
    max_megabytes: float,
    last_pictures: bool = False,
    opens_at: str = "runs",
) -> str:
    """Write the runs below some folders into one page.

    Args:
        roots: Where runs are searched.
        path: The file.
        options: Runs whose latent space is part of the page.
        key: What names the file on the command line, for messages.
        private: Whether to leave in console, environment and absolute paths, which may name people and places.
        max_megabytes: A larger file is not written.
        last_pictures: Whether to leave out pictures of which a run has later ones.
        opens_at: Which of its pages the file shows first, by its name in the address.

    Returns:
        A message that says what was written.

    Raises:
        UserError: if there are no runs, or the file cannot be written; `PageTooLargeError` if it is too large.
    """
    store = read_store(roots, may_be_empty=bool(options.paths))
    latent = _latent_spaces(store, replace(options, has_paths=private))
    html = render_document(
        store, private, max_megabytes * _MEGABYTE, latent, last_pictures=last_pictures, opens_at=opens_at
    )
    with output_errors(key, path):
        write_to_user_path(path, lambda file: file.write(html))
    spaces = f", {quantity(len(latent), 'latent space')}" if latent else ""
    return (
        f"{quantity(len(last_attempts(store)), 'run')}{spaces}, {len(html) / _MEGABYTE:.1f} MB, written to {path}"
    )


def _latent_spaces(store: RunStore, options: ExploreOptions) -> list[dict[str, str]]:
    """Return the latent spaces of the runs that are named, as the page reads them.

    Raises:
        UserError: if one cannot be opened, or if the page cannot decode it.
    """
    if not options.paths:
        return []
    catalog = ExplorerCatalog(store, options)
    spaces = []
    try:
        for run in (run for run in catalog.runs() if run.is_named):
            bundle = catalog.bundle(run)
            if not is_decoded_by_page(bundle):
                raise UserError(
                    f"the decoder of {run.path} needs torch, which a page has not: layers of an MLP or of small "
                    f"convolutions, of at most 4 MB, can be exported."
                )
            spaces.append({"key": run.key, "name": run.name, "bundle": base64.b64encode(bundle).decode()})
    finally:
        catalog.stop()
    return spaces


def render_document(
    store: RunStore,
    private: bool,
    max_bytes: float = float("inf"),
    latent: Sequence[dict[str, str]] = (),
    *,
    last_pictures: bool = False,
    opens_at: str = "runs",
) -> bytes:
    """Return the page.

    Args:
        store: It must have been read.
        private: Whether what may name people and places is left in.
        max_bytes: What is larger raises an error.
        latent: Keys, names and bundles of latent spaces.
        last_pictures: As in `export`.
        opens_at: As in `export`.

    Raises:
        PageTooLargeError: if the page is too large.
    """
    data = api.to_json(_data(store, private, max_bytes, last_pictures, latent) | {"page": opens_at})
    scripts = [_inline(page.plotly()), _inline(page.script())]
    style = page.style()
    policy = (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"script-src {' '.join(_hash(script) for script in scripts)}; "
        f"style-src-elem {_hash(style)} {_hash('')}; style-src-attr 'unsafe-inline'"
    )
    html = page.render(
        head=f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n{_NO_REFERRER}',
        style=f"<style>{style}</style>",
        data=f'<script type="application/json" id="embedded">{data}</script>',
        scripts="\n".join(f"<script>{script}</script>" for script in scripts),
    ).encode()
    _check_size(len(html), max_bytes)
    return html


def _data(
    store: RunStore, private: bool, max_bytes: float, last_pictures: bool, latent: Sequence[dict[str, str]]
) -> dict[str, Any]:
    runs = list(store.runs.values())
    redactor = None if private else Redactor(runs)
    keys = {run.key: _exported_key(run, number, redactor) for number, run in enumerate(runs, 1)}
    changes = api.changes(store, 0) | {"waiting": 0}
    changes["runs"] = [row | {"key": keys[row["key"]]} for row in changes["runs"]]
    details = [api.serialize_details(run, private) | {"key": keys[run.key]} for run in runs]
    pictures = {keys[run.key]: _pictures(run, last_pictures) for run in runs}
    data: dict[str, Any] = {
        "changes": changes,
        "pictures": {key: [description for description, _ in items] for key, items in pictures.items()},
        "details": dict(zip(keys.values(), details, strict=True)),
        "latent": [{"key": keys.get(space["key"], space["key"]), "name": space["name"]} for space in latent],
    }
    curves = {
        axis: [
            curve | {"run": keys[run.key]}
            for run in runs
            for curve in api.serialize_curves([run], [*run.keys, *run.gpu_keys], axis)
        ]
        for axis in api.X_AXES
    }
    if redactor is not None:
        data = _redact(data, redactor)
        for curve in (curve for group in curves.values() for curve in group):
            curve["metric"] = redactor.redact_key(curve["metric"])
    files = [[file for _, file in items] for items in pictures.values()]
    images = _embed_images(data["pictures"], files, max_bytes)
    spaces = [item | {"bundle": space["bundle"]} for item, space in zip(data["latent"], latent, strict=True)]
    return data | {"curves": curves, "pictures": images, "latent": spaces}


def _redact(data: dict[str, Any], redactor: Redactor) -> dict[str, Any]:
    """Redact all texts; of metrics, as of other keys, only paths."""
    redacted: dict[str, Any] = redactor.redact(data)
    for row, original in zip(redacted["changes"]["runs"], data["changes"]["runs"], strict=True):
        for name in ("keys", "gpu"):
            row[name] = [redactor.redact_key(key) for key in original[name]]
    for details, original in zip(redacted["details"].values(), data["details"].values(), strict=True):
        for curve, whole in zip(details["machine"], original["machine"], strict=True):
            curve["metric"] = redactor.redact_key(whole["metric"])
    for name in ("higher", "ranked"):
        redacted["changes"][name] = [redactor.redact_key(key) for key in data["changes"][name]]
    return redacted


def _exported_key(run: Run, number: int, redactor: Redactor | None) -> str:
    """Return the key of a run, or a number if the key names a person or a place."""
    return run.key if redactor is None or redactor.redact(run.key) == run.key else f"run{number}"


def _pictures(run: Run, last_only: bool) -> list[tuple[dict[str, Any], ImageFile]]:
    """Return the pictures of a run with their descriptions: all, or those of the last step of each name."""
    last = {picture.key: picture.step for picture in sorted(run.pictures, key=lambda picture: picture.step)}
    described = zip(api.serialize_pictures(run), run.pictures, strict=True)
    return [(item, file) for item, file in described if not last_only or file.step == last[file.key]]


def _embed_images(
    descriptions: Mapping[str, Sequence[dict[str, Any]]],
    images: Sequence[Sequence[ImageFile]],
    max_bytes: float,
) -> dict[str, list[dict[str, Any]]]:
    """Add their bytes to the descriptions of the runs' images; those without a file are left out."""
    embedded: dict[str, list[dict[str, Any]]] = {}
    size = 0
    for (key, described), files in zip(descriptions.items(), images, strict=True):
        embedded[key] = []
        for description, image in zip(described, files, strict=True):
            try:
                data, media_type = read_picture(image)
            except ImageUnavailableError:
                continue
            size += len(data) * 4 // 3
            _check_size(size, max_bytes)
            address = f"data:{media_type};base64,{base64.b64encode(data).decode()}"
            embedded[key].append(description | {"data": address})
    return embedded


def _check_size(size: float, max_bytes: float) -> None:
    if size > max_bytes:
        raise PageTooLargeError(
            f"the page would have more than {size / _MEGABYTE:.0f} MB, and its limit is {max_bytes / _MEGABYTE:g}"
        )


def _inline(script: str) -> str:
    """Escape what would end a script element; it occurs in strings alone."""
    return _ENDS_SCRIPT.sub(lambda match: "<\\" + match[0][1:] if match[0] != "<!--" else "<\\!--", script)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
