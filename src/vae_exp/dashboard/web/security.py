"""Response headers, and the check of every request."""

import hmac
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Plotly makes an empty style element, adds its rules to it one by one, and sets style attributes of its elements.
_EMPTY_STYLE = "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; img-src 'self' data: blob:; "
    f"style-src 'self'; style-src-elem 'self' {_EMPTY_STYLE}; style-src-attr 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_NOTES = "/api/notes/"
_MAX_BODY_BYTES = 131_072  # 10,000 characters, each as the longest escape of JSON
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}


class RequestGuardMiddleware:
    """Passes only the requests that the page itself makes.

    Args:
        app: The application.
        hosts: Accepted values of the Host header, without port; empty accepts any (then there is a token).
        token: The first part of every address; empty for none.
        notes_token: What a request that saves a note has in its headers; empty if none may.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str], token: str, notes_token: str) -> None:
        self._app, self._hosts, self._token, self._notes_token = app, hosts, token, notes_token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send_guarded)
            return
        await self._app({**scope, "path": self._path(scope)}, receive, send_guarded)

    def _path(self, scope: Scope) -> str:
        return str(scope["path"].removeprefix(f"/{self._token}") if self._token else scope["path"])

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        is_write = scope["method"] == "POST" and self._notes_token and self._path(scope).startswith(_NOTES)
        if scope["method"] not in ("GET", "HEAD") and not is_write:
            return PlainTextResponse("only GET is answered\n", 405, {"Allow": "GET, HEAD"})
        if self._hosts and _host_of(headers) not in self._hosts:
            return PlainTextResponse("unknown host\n", 400)
        first = scope["path"].split("/")[1] if scope["path"].startswith("/") else ""
        if self._token and not hmac.compare_digest(first.encode(), self._token.encode()):
            return PlainTextResponse("not found\n", 404)
        if self._token and scope["path"] == f"/{self._token}":  # without the slash, the page's links would lack it
            return RedirectResponse(f"/{self._token}/")
        if self._path(scope) != "/" and headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            return PlainTextResponse("only the page of this dashboard is answered\n", 403)
        return self._refusal_of_write(headers) if is_write else None

    def _refusal_of_write(self, headers: Headers) -> PlainTextResponse | None:
        """Refuse what the page itself does not send, before its body is read."""
        is_same = headers.get("origin") in [f"{scheme}://{headers.get('host')}" for scheme in ("http", "https")]
        if not is_same or headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return PlainTextResponse("notes are saved by the page of this dashboard alone\n", 403)
        if not hmac.compare_digest(headers.get("x-notes-token", "").encode(), self._notes_token.encode()):
            return PlainTextResponse("the dashboard was restarted: reload the page\n", 403)
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return PlainTextResponse("a note is sent as JSON\n", 415)
        length = headers.get("content-length", "")
        if "transfer-encoding" in headers or not (length.isascii() and length.isdigit()):
            return PlainTextResponse("the length of the note is missing\n", 411)
        if len(length) > 9 or int(length) > _MAX_BODY_BYTES:
            return PlainTextResponse("the note is too long\n", 413)
        return None


def _host_of(headers: Headers) -> str | None:
    """Return the host that a request is for, without its port; None if it names none or several."""
    hosts = headers.getlist("host")
    if len(hosts) != 1:
        return None
    try:
        return urlsplit(f"//{hosts[0]}").hostname
    except ValueError:
        return None
