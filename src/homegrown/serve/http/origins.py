"""Which web pages may ask: a browser sends requests for any page that it shows, and the user need not know."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from homegrown.serve.errors import ApiError

_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})


class Origins:
    """ASGI middleware that refuses requests which pages of other sites make in a browser.

    Args:
        app: does the work.
        allowed: origins, such as https://chat.example.org, whose pages may ask; `*` is all.
        local: the server is open to this machine and no other, so requests must name this machine as their host: a
            page whose own name was made to point here names itself.
    """

    def __init__(self, app: ASGIApp, allowed: tuple[str, ...] = (), local: bool = False) -> None:
        self._app, self._allowed, self._local = app, frozenset(allowed), local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or not."""
        if scope["type"] == "http":
            headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
            self._check(headers.get(b"origin", ""), headers.get(b"host", ""))
        await self._app(scope, receive, send)

    def _check(self, origin: str, host: str) -> None:
        if self._local and host and _split(f"//{host}")[0] not in _LOCAL:
            raise ApiError("permission", "without keys only requests to localhost are taken; see --keys and --open")
        if origin and not self._allowed & {origin, "*"} and _split(origin)[1] != host:
            raise ApiError("permission", "pages of this origin may not ask here; the server can allow them by --cors")


def _split(url: str) -> tuple[str, str]:
    """Host name, and host with port; both empty where there is none."""
    try:
        parts = urlsplit(url)
        return parts.hostname or "", parts.netloc
    except ValueError:
        return "", ""
