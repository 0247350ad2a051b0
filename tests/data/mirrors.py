"""Servers on the loopback address in place of a data set's mirrors."""

import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Mirror:
    """A running server and the requests it has answered, such as `GET /name`."""

    address: str
    requests: list[str]

    def downloads(self) -> set[str]:
        return {request.removeprefix("GET /") for request in self.requests if request.startswith("GET ")}


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # closing waits for them

    def handle_error(self, request, client_address) -> None:
        # torchvision looks at the headers first and hangs up.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def _running(handler: Callable[..., BaseHTTPRequestHandler], requests: list[str]) -> Iterator[Mirror]:
    server = _Server((HOST, 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield Mirror(f"http://{HOST}:{server.server_port}/", requests)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def serving(folder: Path) -> Iterator[Mirror]:
    """A mirror that holds the files of a folder."""
    requests: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def send_head(self):
            requests.append(f"{self.command} {self.path}")
            return super().send_head()

        def log_message(self, *_) -> None:
            pass

    with _running(partial(Handler, directory=str(folder)), requests) as mirror:
        yield mirror


@contextmanager
def down() -> Iterator[str]:
    """The address of a port that is bound and refuses connections."""
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        yield f"http://{HOST}:{taken.getsockname()[1]}/"


@contextmanager
def stalling() -> Iterator[Mirror]:
    """A mirror that sends half of each file and then no more."""
    over = threading.Event()

    class Stall(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "2000")
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            self.wfile.write(bytes(1000))
            self.wfile.flush()
            over.wait()

        def log_message(self, *_) -> None:
            pass

    with _running(Stall, []) as mirror:
        try:
            yield mirror
        finally:
            over.set()
