"""Response headers, and the check of every request."""

import hmac
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Plotly makes an empty style element, adds its rules to it one by one, and sets style attributes of its elements.
_EMPTY_STYLE = "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; img-src 'self' data: blob:; "
    f"style-src 'self'; style-src-elem 'self' {_EMPTY_STYLE}; style-src-attr 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
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
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str], token: str) -> None:
        self._app, self._hosts, self._token = app, hosts, token

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
        path = scope["path"].removeprefix(f"/{self._token}") if self._token else scope["path"]
        await self._app({**scope, "path": path or "/"}, receive, send_guarded)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("only GET is answered\n", 405, {"Allow": "GET, HEAD"})
        if self._hosts and _host_of(Headers(scope=scope)) not in self._hosts:
            return PlainTextResponse("unknown host\n", 400)
        first = scope["path"].split("/")[1] if scope["path"].startswith("/") else ""
        if self._token and not hmac.compare_digest(first.encode(), self._token.encode()):
            return PlainTextResponse("not found\n", 404)
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
