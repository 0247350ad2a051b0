"""The dashboard's answers: a page, its script and style, and what the store holds."""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from vae_exp.dashboard.runs.media import ImageUnavailableError, read_picture
from vae_exp.dashboard.runs.run import Run
from vae_exp.dashboard.runs.store import Store
from vae_exp.dashboard.web import api
from vae_exp.dashboard.web.page import index, plotly, script, style
from vae_exp.dashboard.web.security import Guard

_log = logging.getLogger(__name__)
_MOST_CURVES = 5_000
_MOST_RUNS_OF_PICTURES = 2_000
_KEPT = {"Cache-Control": "private, max-age=86400, immutable"}  # another picture has another mark in its address


def application(store: Store, hosts: frozenset[str], token: str = "") -> Starlette:
    """What answers requests; it reads no run's files but images.

    Args:
        store: Kept up to date by somebody else.
        hosts: Values of the Host header that are right; empty takes any.
        token: The first part of every address; empty asks for none.
    """
    answers = _Answers(store)
    routes = [
        Route("/", _constant(index, "text/html")),
        Route("/app.js", _constant(script, "text/javascript")),
        Route("/style.css", _constant(style, "text/css")),
        Route("/plotly.min.js", _constant(plotly, "text/javascript")),
        Route("/api/runs", answers.runs),
        Route("/api/curves", answers.curves),
        Route("/api/pictures", answers.pictures),
        Route("/api/run/{key}", answers.run),
        Route("/media/{key}/{number}", answers.picture),
    ]
    return Starlette(routes=routes, middleware=[Middleware(Guard, hosts=hosts, token=token)])


def _constant(make: Callable[[], str], media_type: str) -> Callable[[Request], Response]:
    def answer(request: Request) -> Response:
        return Response(make(), media_type=media_type)

    return answer


class _Answers:
    """Each in a thread of its own, under the store's lock for as long as it looks at runs."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def runs(self, request: Request) -> Response:
        since = _whole(request.query_params.get("since"))
        with self._store.lock:
            return _json(api.changes(self._store, since))

    def curves(self, request: Request) -> Response:
        metrics = request.query_params.getlist("metric")
        abscissa = request.query_params.get("against", "step")
        if abscissa not in api.ABSCISSAS:
            return PlainTextResponse(f"against is one of {', '.join(api.ABSCISSAS)}\n", 400)
        with self._store.lock:
            runs = self._known(request.query_params.getlist("run"))
            if len(runs) * len(metrics) > _MOST_CURVES:
                return PlainTextResponse(f"at most {_MOST_CURVES} curves at once\n", 400)
            return _json({"curves": api.curves(runs, metrics, abscissa)})

    def pictures(self, request: Request) -> Response:
        with self._store.lock:
            runs = self._known(request.query_params.getlist("run"))[:_MOST_RUNS_OF_PICTURES]
            return _json({"pictures": {run.key: api.pictures(run) for run in runs}})

    def run(self, request: Request) -> Response:
        with self._store.lock:
            run = self._store.runs.get(request.path_params["key"])
            return _not_found() if run is None else _json(api.details(run, private=True))

    def picture(self, request: Request) -> Response:
        with self._store.lock:
            run = self._store.runs.get(request.path_params["key"])
            known = [] if run is None else run.pictures
        number = _whole(request.path_params["number"], otherwise=len(known))
        if number >= len(known):
            return _not_found()
        try:
            data, media_type = read_picture(known[number])
        except ImageUnavailableError:
            return _not_found()
        return Response(data, media_type=media_type, headers=_KEPT)

    def _known(self, keys: Sequence[str]) -> list[Run]:
        return [self._store.runs[key] for key in dict.fromkeys(keys) if key in self._store.runs]


def _json(value: Any) -> Response:
    return Response(api.encoded(value), media_type="application/json")


def _not_found() -> Response:
    return PlainTextResponse("not found\n", 404)


def _whole(text: str | None, otherwise: int = 0) -> int:
    """The number that a part of an address says."""
    is_one = text is not None and text.isascii() and text.isdigit() and len(text) < 16
    return int(text) if text is not None and is_one else otherwise


class Refresher(threading.Thread):
    """Keeps a store up to date until it is stopped.

    Args:
        store: The store.
        seconds: Between two looks at the files.
    """

    def __init__(self, store: Store, seconds: float = 0.5) -> None:
        super().__init__(daemon=True, name="dashboard-refresher")
        self._store, self._seconds = store, seconds
        self._stopped = threading.Event()

    def run(self) -> None:
        """Look, wait, look again."""
        while not self._stopped.is_set():
            try:
                has_more = self._store.refresh()
            except Exception as error:
                has_more = False
                self._store.notes = [f"the runs could not be looked at: {type(error).__name__}: {error}"]
                _log.debug("the runs could not be looked at", exc_info=True)
            if not has_more:
                self._stopped.wait(self._seconds)

    def stop(self) -> None:
        """End after the look that is under way."""
        self._stopped.set()
        self.join(timeout=10)
