"""Server-sent events: on the wire as soon as they exist; silence is filled; the work ends with the client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from homegrown.serve.errors import ApiError
from homegrown.serve.http.gone import race

Events = AsyncGenerator[str | bytes, None] | AsyncGenerator[bytes, None] | AsyncGenerator[str, None]

_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}  # the second asks proxies not to buffer


def stream(
    events: Events,
    on_error: Callable[[ApiError], str | bytes],
    idle: str | bytes = b": keep-alive\n\n",
    idle_s: float = 5.0,
    headers: Mapping[str, str] | None = None,
) -> EventStream:
    """A response of server-sent events.

    The status is sent with the first event, or after `idle_s` of silence. An `ApiError` that `events` raises before
    that passes through, so that the client gets a proper status; one raised later is put on the wire by `on_error` and
    ends the stream.

    Args:
        events: complete events ("data: ...\\n\\n"), one for each piece of news. Closed when the client leaves: inside
            it, close what it iterates over with `contextlib.aclosing`.
        on_error: the event that tells a client that the answer ends here.
        idle: what fills silence: a comment, or a ping event.
        idle_s: how many seconds of silence are filled.
        headers: to be sent besides.
    """
    return EventStream(events, on_error, idle, idle_s, headers)


class EventStream(Response):
    """See `stream`."""

    media_type = "text/event-stream"

    def __init__(
        self,
        events: Events,
        on_error: Callable[[ApiError], str | bytes],
        idle: str | bytes,
        idle_s: float,
        headers: Mapping[str, str] | None,
    ) -> None:
        self.status_code, self.background = 200, None
        self.init_headers({**_HEADERS, **(headers or {})})
        self._events, self._on_error, self._idle, self._idle_s = events, on_error, _bytes(idle), idle_s
        self._wire = asyncio.Lock()  # two tasks write: one the events, one what fills silence
        self._started, self._ended, self._last = False, False, 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        self._last = asyncio.get_running_loop().time()
        filling = asyncio.ensure_future(self._fill_silence(send))
        try:
            async with aclosing(self._events):
                await race(self._send_all(send), receive)
        except (ClientDisconnect, OSError):
            return  # nobody is there to be told
        finally:
            filling.cancel()

    async def _send_all(self, send: Send) -> None:
        try:
            async for event in self._events:
                await self._send(_bytes(event), send)
        except ApiError as error:
            if not self._started:
                self._ended = True
                raise
            await self._send(_bytes(self._on_error(error)), send)
        except Exception:
            if self._started:
                failed = ApiError("internal", "The server failed while it was answering.")
                await self._send(_bytes(self._on_error(failed)), send, more=False)
            self._ended = True
            raise
        await self._send(b"", send, more=False)

    async def _send(self, event: bytes, send: Send, more: bool = True) -> None:
        async with self._wire:
            if self._ended:
                return
            self._ended = not more
            self._last = asyncio.get_running_loop().time()
            if not self._started:
                self._started = True
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": event, "more_body": more})

    async def _fill_silence(self, send: Send) -> None:
        """Wakes up once in `idle_s`, so that an event costs no timer of its own."""
        loop = asyncio.get_running_loop()
        while not self._ended:
            silent = loop.time() - self._last
            if silent < self._idle_s:
                await asyncio.sleep(self._idle_s - silent)
                continue
            try:
                await self._send(self._idle, send)
            except OSError:
                return  # the client left, which `race` notices as well


def _bytes(event: str | bytes) -> bytes:
    return event.encode() if isinstance(event, str) else event
