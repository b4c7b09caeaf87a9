"""Lets requests through to the engine, or turns them away before anything was done for them."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from homegrown.serve.errors import ApiError
from homegrown.serve.http.admission import Admission
from homegrown.serve.http.dialect import generates, respond
from homegrown.serve.http.exchange import Exchange
from homegrown.serve.http.limits import Headers, Limiter


class Gate:
    """ASGI middleware for the routes that make the engine work.

    Args:
        app: does the work.
        limiter: holds clients to their limits.
        admission: knows whether there is room.
    """

    def __init__(self, app: ASGIApp, limiter: Limiter, admission: Admission) -> None:
        self._app, self._limiter, self._admission = app, limiter, admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or not."""
        if scope["type"] != "http" or not generates(scope):
            await self._app(scope, receive, send)
            return
        exchange: Exchange = scope["state"]["exchange"]

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *self._headers(exchange)]}
            await send(message)

        try:
            self._limiter.enter(exchange.client)
        except ApiError as error:
            await respond(scope, error, exchange.id)(scope, receive, tell)
            return
        try:
            self._admission.enter()
            exchange.admitted = True
            try:
                await self._app(scope, receive, tell)
            finally:
                self._admission.leave(exchange.id)
        finally:
            self._limiter.leave(exchange.client)

    def _headers(self, exchange: Exchange) -> Headers:
        depth = (b"x-queue-depth", str(self._admission.waiting).encode())
        return [depth, *self._limiter.headers(exchange.client)]
