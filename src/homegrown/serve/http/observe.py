"""The outermost layer: gives every request an id, turns whatever is raised into an answer, writes down how it went."""

from __future__ import annotations

import logging
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from homegrown.serve.errors import ApiError
from homegrown.serve.http.dialect import respond
from homegrown.serve.http.exchange import Exchange, current

logger = logging.getLogger("homegrown.serve")

_LEFT = 499
"""What logs have in place of a status where the client did not wait for one."""

Done = Callable[[Exchange, Scope], None]


class Observe:
    """ASGI middleware.

    Args:
        app: does the work.
        done: is called with every exchange when it is over.
        replica: the server's name, for the header `x-replica`; empty sends none.
    """

    def __init__(self, app: ASGIApp, done: Done, replica: str = "") -> None:
        self._app, self._done, self._replica = app, done, replica.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through and see how it goes."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange.of(scope)
        scope.setdefault("state", {}).update(request_id=exchange.id, exchange=exchange)
        extra = [(b"x-request-id", exchange.id.encode()), (b"request-id", exchange.id.encode())]
        if self._replica:
            extra.append((b"x-replica", self._replica))
        if exchange.session:
            extra.append((b"x-session-id", exchange.session.encode()))

        async def note(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                headers = list(message.get("headers", []))
                there = {name for name, _ in headers}
                message = {**message, "headers": headers + [item for item in extra if item[0] not in there]}
            elif message["type"] == "http.response.body":
                exchange.sent += len(message.get("body", b""))
            await send(message)

        token = current.set(exchange)
        try:
            await self._guarded(scope, receive, note, exchange)
        finally:
            current.reset(token)
            if exchange.gone and not exchange.status:
                exchange.status = _LEFT
            self._done(exchange, scope)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send, exchange: Exchange) -> None:
        try:
            await self._app(scope, receive, send)
        except ApiError as error:
            problem = error
        except Exception as error:
            if exchange.gone:
                return
            logger.error(
                "a request failed: a defect of this server", exc_info=error, extra={"fields": {"id": exchange.id}}
            )
            problem = ApiError("internal", f"this server has a defect; its log has more under {exchange.id}")
        else:
            return
        # A response that has begun cannot be taken back. It is left without its end, and the connection is closed.
        if not exchange.status:
            await respond(scope, problem, exchange.id)(scope, receive, send)
