"""Who asks: keys in either of the two headers, on every route of every API."""

from __future__ import annotations

from collections.abc import Collection

from starlette.types import ASGIApp, Receive, Scope, Send

from homegrown.serve.errors import ApiError
from homegrown.serve.http.clients import ANONYMOUS, Client, Keys

OPEN = frozenset({"/", "/health", "/ready"})
"""Paths for everybody: the page, which asks for a key itself, and what a load balancer looks at."""

OPEN_FOLDER = "/page/"


class Authentication:
    """ASGI middleware that says who asks, in `scope["state"]["client"]`.

    Args:
        app: does the work.
        keys: those that are taken; with none, everybody may do everything.
        open_paths: paths for everybody.
    """

    def __init__(self, app: ASGIApp, keys: Keys, open_paths: Collection[str] = OPEN) -> None:
        self._app, self._keys, self._open = app, keys, open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Say who asks."""
        if scope["type"] == "http":
            client = self._client(scope)
            scope["state"]["client"] = client
            scope["state"]["exchange"].client = client
        await self._app(scope, receive, send)

    def _client(self, scope: Scope) -> Client:
        if not self._keys or scope["path"] in self._open or scope["path"].startswith(OPEN_FOLDER):
            return ANONYMOUS
        presented = _presented(scope)
        if not presented:
            raise ApiError("authentication", "no API key: send one as `Authorization: Bearer KEY` or `x-api-key: KEY`")
        for key in presented:
            client = self._keys.find(key)
            if client is not None:
                return client
        raise ApiError("authentication", "this API key is not known here")


def _presented(scope: Scope) -> list[str]:
    """The keys that came, at most one in each header: agents are known to send a stale one beside a good one."""
    found: dict[bytes, str] = {}
    for name, value in scope["headers"]:
        text = value.decode("latin-1").strip()
        if name == b"authorization":
            scheme, _, rest = text.partition(" ")
            if scheme.lower() == "bearer" and rest.strip():
                found.setdefault(name, rest.strip())
        elif name == b"x-api-key" and text:
            found.setdefault(name, text)
    return list(found.values())
