"""The server of the dashboard, and the thread that keeps its runs up to date."""

import logging
import secrets
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from vae_exp.dashboard.explorer.options import ExploreOptions
from vae_exp.dashboard.runs.store import RunStore
from vae_exp.errors import UserError

_OWN_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
_log = logging.getLogger(__name__)


def serve(
    roots: Sequence[Path],
    options: ExploreOptions,
    *,
    host: str,
    port: int,
    opens_browser: bool,
    view: str = "",
    allows_notes: bool = False,
) -> None:
    """Serve the runs below some folders until Ctrl-C.

    Args:
        roots: Where runs are searched.
        options: Runs whose latent space the server may decode.
        host: The address to listen on; any but this machine's own gets a secret token.
        port: 0 takes any free one.
        opens_browser: Whether to open the page.
        view: The fragment of the address that is printed and opened.
        allows_notes: Whether the page may save notes in run directories.
    """
    import uvicorn

    from vae_exp.dashboard.explorer.catalog import ExplorerCatalog
    from vae_exp.dashboard.runs.cache import SegmentCache, cache_folder
    from vae_exp.dashboard.web.app import make_app
    from vae_exp.dashboard.web.page import plotly

    plotly()
    is_public = host not in _OWN_HOSTS
    token = secrets.token_urlsafe(24) if is_public else ""
    notes_token = secrets.token_urlsafe(24) if allows_notes else ""
    listening = _listen(host, port)
    store = RunStore(roots, cache=SegmentCache(cache_folder()))
    catalog = ExplorerCatalog(store, options)
    refresher = Refresher(store)
    refresher.start()
    config = uvicorn.Config(
        make_app(store, catalog, frozenset() if is_public else _OWN_HOSTS, token, notes_token),
        log_level="critical", server_header=False, date_header=False, lifespan="off", timeout_graceful_shutdown=1,
    )  # fmt: skip
    name = f"[{host}]" if ":" in host else host
    address = f"http://{name}:{listening.getsockname()[1]}/{token + '/' if token else ''}{view}"
    print(f"Dashboard: {address}  (Ctrl-C ends it)", flush=True)
    if opens_browser:
        webbrowser.open(address)
    # uvicorn raises a signal again once it has stopped; SIGTERM would then skip `finally`.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        catalog.stop()
        refresher.stop()


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket: the printed address is then right, and a port in use is an error."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, UnicodeError, OverflowError) as error:
        is_address = isinstance(error, UnicodeError | socket.gaierror)
        remedy = "give an address of this machine, such as 0.0.0.0" if is_address else "--port 0 takes a free one"
        raise UserError(f"--bind {host} --port {port}: {error}; {remedy}.") from error


class Refresher(threading.Thread):
    """Keeps a store up to date until it is stopped.

    Args:
        store: The store.
        seconds: Between two refreshes.
    """

    def __init__(self, store: RunStore, seconds: float = 0.5) -> None:
        super().__init__(daemon=True, name="dashboard-refresher")
        self._store, self._seconds = store, seconds
        self._stopped = threading.Event()

    def run(self) -> None:
        """Refresh, wait, repeat."""
        while not self._stopped.is_set():
            try:
                has_more = self._store.refresh()
            except Exception as error:
                has_more = False
                self._store.notes = [f"the runs could not be read: {type(error).__name__}: {error}"]
                _log.debug("the runs could not be read", exc_info=True)
            if not has_more:
                self._stopped.wait(self._seconds)
        self._store.close()

    def stop(self) -> None:
        """Stop after the current refresh."""
        self._stopped.set()
        self.join(timeout=10)
