"""A request to the application from within its own process."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.types import ASGIApp, Message

from homegrown.serve.http.clients import Client
from homegrown.serve.http.exchange import Exchange, current


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    body: bytes


async def post(app: ASGIApp, exchange: Exchange, body: bytes, client: Client) -> Reply:
    """Post JSON to `exchange.path` and take the whole answer.

    Args:
        app: routes, behind the layers that authenticate and admit.
        exchange: whom to bill.
        body: of the request.
        client: whom the engine is to see: the exchange's, maybe with another priority.
    """
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": exchange.method,
        "scheme": "http",
        "path": exchange.path,
        "raw_path": exchange.path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())],
        "client": None,
        "server": None,
        "state": {"client": client, "request_id": exchange.id, "exchange": exchange},
    }
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    answer = bytearray()

    async def receive() -> Message:
        if messages:
            return messages.pop()
        return await asyncio.Future()  # this client never leaves; it is cancelled instead

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            exchange.status = message["status"]
        else:
            answer.extend(message.get("body", b""))

    token = current.set(exchange)
    try:
        await app(scope, receive, send)
    finally:
        current.reset(token)
    return Reply(exchange.status, bytes(answer))
