"""Bodies of requests: bounded, each and all together; and clients that leave before they were answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from homegrown.serve.errors import ApiError
from homegrown.serve.http.exchange import Exchange

UPLOADS = "/v1/files"
"""Where bodies are files, which go to a disk and not into memory."""


class Bodies:
    """ASGI middleware that reads a body whole before the work begins, and ends the work when the client leaves.

    Args:
        app: does the work. It is cancelled when the client leaves, streaming or not.
        largest: bytes of a body.
        largest_upload: bytes of a file's; it is not read whole.
        together: bytes of all bodies in memory.
        first: is called before a body is read and may raise `ApiError`.
        keep: whether to keep bodies for the log.
    """

    def __init__(
        self,
        app: ASGIApp,
        largest: int,
        largest_upload: int,
        together: int,
        first: Callable[[Scope], None] = lambda scope: None,
        keep: bool = False,
    ) -> None:
        self._app, self._largest, self._largest_upload, self._together = app, largest, largest_upload, together
        self._first, self._keep = first, keep
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body, then let the request through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._first(scope)
        upload = scope["method"] == "POST" and scope["path"] == UPLOADS
        limit = self._largest_upload if upload else self._largest
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > limit:
            raise _too_large(limit)
        if upload:
            await self._app(scope, _counted(receive, limit), send)
            return
        body = bytearray()
        try:
            if await self._read(body, receive, limit):
                exchange: Exchange = scope["state"]["exchange"]
                if self._keep:
                    exchange.prompt = body.decode("utf-8", "replace")
                await self._watched(scope, bytes(body), receive, send, exchange)
            else:
                scope["state"]["exchange"].gone = True
        finally:
            self._held -= len(body)

    async def _read(self, body: bytearray, receive: Receive, limit: int) -> bool:
        """Fill `body`; whether the client stayed to the end."""
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return False
            chunk, more = message.get("body", b""), message.get("more_body", False)
            if len(body) + len(chunk) > limit:
                raise _too_large(limit)
            if self._held + len(chunk) > self._together:
                raise ApiError("overloaded", "too many large requests at once; try again soon", retry_after=1.0)
            body += chunk
            self._held += len(chunk)
        return True

    async def _watched(self, scope: Scope, body: bytes, receive: Receive, send: Send, exchange: Exchange) -> None:
        left = asyncio.Event()
        messages = [{"type": "http.request", "body": body, "more_body": False}]
        over = False

        async def replay() -> Message:
            if messages:
                return messages.pop()
            await left.wait()
            return {"type": "http.disconnect"}

        async def note(message: Message) -> None:
            nonlocal over
            over = over or (message["type"] == "http.response.body" and not message.get("more_body", False))
            await send(message)

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            left.set()
            if not over:  # else it only means that nothing more will come
                exchange.gone = True
                work.cancel()

        with anyio.CancelScope() as work:
            watcher = asyncio.create_task(watch())
            try:
                await self._app(scope, replay, note)
            finally:
                watcher.cancel()


def _counted(receive: Receive, limit: int) -> Receive:
    count = 0

    async def counted() -> Message:
        nonlocal count
        message = await receive()
        count += len(message.get("body", b""))
        if count > limit:
            raise _too_large(limit)
        return message

    return counted


def _too_large(limit: int) -> ApiError:
    return ApiError("too_large", f"the request's body is larger than {limit} bytes, the most that is taken")
