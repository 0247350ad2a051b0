"""The web application: the page, its script and style, and the contents of the store."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from vae_exp.dashboard.explorer.catalog import ExplorableRun, ExplorerCatalog
from vae_exp.dashboard.explorer.run_process import RunChangedError
from vae_exp.dashboard.runs.media import ImageUnavailableError, read_picture
from vae_exp.dashboard.runs.run import Run
from vae_exp.dashboard.runs.run_notes import NoteChangedError
from vae_exp.dashboard.runs.store import RunStore
from vae_exp.dashboard.web import api
from vae_exp.dashboard.web.page import index, plotly, script, style
from vae_exp.dashboard.web.security import RequestGuardMiddleware
from vae_exp.errors import UserError

_MAX_CURVES = 5_000
_MAX_ROWS = 500
_MAX_RUNS_WITH_PICTURES = 2_000
_CACHED = {"Cache-Control": "private, max-age=86400, immutable"}  # a changed image has another address


def make_app(
    store: RunStore, catalog: ExplorerCatalog, hosts: frozenset[str], token: str = "", notes_token: str = ""
) -> Starlette:
    """Make the application, which itself reads no run's files but images, and writes none but notes.

    Args:
        store: A `Refresher` keeps it up to date.
        catalog: Runs whose latent space is shown; a process of its own opens them.
        hosts: Accepted values of the Host header; empty accepts any.
        token: The first part of every address; empty for none.
        notes_token: What the page sends with a note that it saves; empty if it may not save any.
    """
    endpoints = _Endpoints(store, allows_notes=bool(notes_token))
    latent = _LatentEndpoints(catalog)
    routes = [
        Route("/", _constant(partial(index, notes_token), "text/html")),
        Route("/app.js", _constant(script, "text/javascript")),
        Route("/style.css", _constant(style, "text/css")),
        Route("/plotly.min.js", _constant(plotly, "text/javascript")),
        Route("/api/runs", endpoints.runs),
        Route("/api/curves", endpoints.curves),
        Route("/api/pictures", endpoints.pictures),
        Route("/api/run/{key}", endpoints.run),
        Route("/api/notes/{key}", endpoints.save_note, methods=["POST"]),
        Route("/media/{key}/{number}", endpoints.picture),
        Route("/api/latent", latent.runs),
        Route("/api/latent/{key}", latent.bundle),
        Route("/api/latent/{key}/image", latent.image),
    ]
    guard = Middleware(RequestGuardMiddleware, hosts=hosts, token=token, notes_token=notes_token)
    return Starlette(routes=routes, middleware=[guard])


def _constant(make: Callable[[], str], media_type: str) -> Callable[[Request], Response]:
    return lambda request: Response(make(), media_type=media_type)


class _Endpoints:
    """Each runs in a separate thread, and holds the store's lock while it reads runs."""

    def __init__(self, store: RunStore, allows_notes: bool) -> None:
        self._store, self._allows_notes = store, allows_notes

    def runs(self, request: Request) -> Response:
        since = _parse_number(request.query_params.get("since", ""), default=0)
        with self._store.lock:
            return _json(api.changes(self._store, since, _MAX_ROWS))

    def curves(self, request: Request) -> Response:
        metrics = request.query_params.getlist("metric")
        x_axis = request.query_params.get("against", "step")
        if x_axis not in api.X_AXES:
            return PlainTextResponse(f"against is one of {', '.join(api.X_AXES)}\n", 400)
        with self._store.lock:
            runs = self._existing(request.query_params.getlist("run"))
            if len(runs) * len(metrics) > _MAX_CURVES:
                return PlainTextResponse(f"at most {_MAX_CURVES} curves at once\n", 400)
            return _json({"curves": api.serialize_curves(runs, metrics, x_axis)})

    def pictures(self, request: Request) -> Response:
        with self._store.lock:
            runs = self._existing(request.query_params.getlist("run"))[:_MAX_RUNS_WITH_PICTURES]
            return _json({"pictures": {run.key: api.serialize_pictures(run) for run in runs}})

    def run(self, request: Request) -> Response:
        with self._store.lock:
            run = self._store.runs.get(request.path_params["key"])
            if run is None:
                return _not_found()
            details, directory = api.serialize_details(run, private=True), run.directory
        if self._allows_notes:
            try:
                self._store.note_files.check(directory)
            except (OSError, UserError) as error:
                details["note"]["problem"] = str(error)
        return _json(details)

    async def save_note(self, request: Request) -> Response:
        """Save a note, `{"text": …, "version": …}`; the middleware has refused what the page does not send."""
        try:
            note = json.loads(await request.body())
            text, version = note["text"], note["version"]
        except (ValueError, TypeError, KeyError, RecursionError):
            text = version = None
        if not isinstance(text, str) or not isinstance(version, str):
            return PlainTextResponse("a note has a text and a version\n", 400)
        return await run_in_threadpool(self._save_note, request.path_params["key"], text, version)

    def _save_note(self, key: str, text: str, version: str) -> Response:
        with self._store.lock:
            run = self._store.runs.get(key)
            if run is None:
                return _not_found()
            directory = run.directory
        try:
            note = self._store.note_files.write(directory, text, version)
        except (OSError, UserError) as error:
            return _problem(error, 409 if isinstance(error, NoteChangedError) else 400)
        with self._store.lock:
            self._store.refresh_note(run)
        return _json({"text": note.text, "version": note.version})

    def picture(self, request: Request) -> Response:
        with self._store.lock:
            run = self._store.runs.get(request.path_params["key"])
            pictures = [] if run is None else run.pictures
        number = _parse_number(request.path_params["number"], default=len(pictures))
        if number >= len(pictures):
            return _not_found()
        try:
            data, media_type = read_picture(pictures[number])
        except ImageUnavailableError:
            return _not_found()
        return Response(data, media_type=media_type, headers=_CACHED)

    def _existing(self, keys: Sequence[str]) -> list[Run]:
        return [self._store.runs[key] for key in dict.fromkeys(keys) if key in self._store.runs]


class _LatentEndpoints:
    """The latent spaces of runs; see `explorer.catalog`.

    One process answers one request after the other; those that wait take no threads from the rest of the page.
    """

    def __init__(self, catalog: ExplorerCatalog) -> None:
        self._catalog = catalog
        self._threads = CapacityLimiter(2)

    def runs(self, request: Request) -> Response:
        return _json({"runs": [{"key": run.key, "name": run.name} for run in self._catalog.runs()]})

    async def bundle(self, request: Request) -> Response:
        return await self._answer(request, self._catalog.bundle)

    async def image(self, request: Request) -> Response:
        version, latents = (request.query_params.get(name, "") for name in ("version", "z"))
        label = _parse_number(request.query_params.get("label", ""), default=0)
        return await self._answer(request, lambda run: self._catalog.decode(run, version, latents, label))

    async def _answer(self, request: Request, action: Callable[[ExplorableRun], bytes]) -> Response:
        return await run_sync(self._answer_now, request.path_params["key"], action, limiter=self._threads)

    def _answer_now(self, key: str, action: Callable[[ExplorableRun], bytes]) -> Response:
        run = self._catalog.get(key)
        if run is None:
            return _not_found()
        try:
            return Response(action(run), media_type="application/octet-stream")
        except UserError as error:
            return _problem(error, 409 if isinstance(error, RunChangedError) else 400)


def _json(value: Any) -> Response:
    return Response(api.to_json(value), media_type="application/json")


def _not_found() -> Response:
    return PlainTextResponse("not found\n", 404)


def _problem(error: Exception, status: int) -> Response:
    """Return a message; of a path that is not UTF-8 some characters become question marks."""
    return PlainTextResponse(f"{error}\n".encode(errors="replace"), status)


def _parse_number(text: str, default: int) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else default
