"""A lean HTTP/1.1 client that notes when bytes arrive.

General clients spend more on a small chunk than a server does to make it, and on a machine that runs both, that would
be measured too (docs/benchmarks.md has the figures). This one does what a load needs: it posts, and hands the body on
as it comes, with the time at which the socket had it.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping
from typing import cast
from urllib.parse import urlsplit

import httptools

from homegrown.config import UserError

Take = Callable[[bytes, float], None]
"""Given a piece of a body, and the `time.perf_counter()` at which it was there."""


class HttpError(Exception):
    """The exchange failed below HTTP: refused, reset, cut off, not HTTP."""


class Client:
    """Connections to one server, kept for the next request.

    Args:
        url: such as `http://127.0.0.1:8000`; a path is put before every request's.
        headers: sent with every request.

    Raises:
        UserError: the URL is none.
    """

    def __init__(self, url: str, headers: Mapping[str, str] | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"{url!r} is no URL of a server; one is written http://HOST:PORT")
        self.url = url.rstrip("/")
        self._host, self._tls = parts.hostname, ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._base = parts.path.rstrip("/")
        lines = {"Host": parts.netloc.rpartition("@")[2], "Accept": "*/*", **(headers or {})}
        self._head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self._idle: list[_Connection] = []

    async def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of a GET.

        Raises:
            HttpError: there is no response.
        """
        return await self._whole("GET", path, b"")

    async def post(self, path: str, body: bytes, take: Take) -> tuple[int, bytes]:
        """POST JSON, and hand a body of status 200 on to `take` as it comes.

        Returns:
            Status, and the body where it is not 200.

        Raises:
            HttpError: there is no whole response.
        """
        return await self._whole("POST", path, body, take)

    async def close(self) -> None:
        """Close all connections."""
        while self._idle:
            self._idle.pop().close()

    async def _whole(self, method: str, path: str, body: bytes, take: Take | None = None) -> tuple[int, bytes]:
        head = f"{method} {self._base}{path} HTTP/1.1\r\n{self._head}"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        connection = await self._connection()
        try:
            status, rest = await connection.exchange(head.encode("latin-1") + b"\r\n" + body, take)
        except BaseException:
            connection.close()  # whatever the server still sends belongs to nobody
            raise
        if connection.reusable:
            self._idle.append(connection)
        else:
            connection.close()
        return status, rest

    async def _connection(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.open:
                return connection
        loop = asyncio.get_running_loop()
        try:
            _, protocol = await loop.create_connection(_Connection, self._host, self._port, ssl=self._tls)
        except OSError as error:
            raise HttpError(f"cannot connect to {self._host}:{self._port}: {error}") from None
        return protocol


class _Connection(asyncio.Protocol):
    """One connection: one exchange at a time."""

    def __init__(self) -> None:
        self.open = self.reusable = False
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._done: asyncio.Future[None] | None = None
        self._take: Take | None = None
        self._rest: list[bytes] = []
        self._status, self._now = 0, 0.0

    async def exchange(self, request: bytes, take: Take | None) -> tuple[int, bytes]:
        """Send a request; status, and the body unless it went to `take`."""
        if self._transport is None:
            raise HttpError("the connection is not open")
        self._parser = httptools.HttpResponseParser(self)
        self._done = asyncio.get_running_loop().create_future()
        self._take, self._rest, self._status, self.reusable = take, [], 0, False
        self._transport.write(request)
        await self._done
        return self._status, b"".join(self._rest)

    def close(self) -> None:
        """Hang up."""
        self.open = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's."""
        self._transport, self.open = cast(asyncio.Transport, transport), True

    def data_received(self, data: bytes) -> None:
        """asyncio's."""
        self._now = time.perf_counter()
        if self._parser is None:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"not HTTP: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio's."""
        self.open = False
        self._fail(f"the connection broke: {exc}" if exc else "the server hung up before the response was complete")

    def on_headers_complete(self) -> None:
        """httptools'."""
        if self._parser is not None:
            self._status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        """httptools'."""
        if self._take is not None and self._status == 200:
            self._take(body, self._now)
        else:
            self._rest.append(body)

    def on_message_complete(self) -> None:
        """httptools'."""
        if self._parser is not None and self._done is not None and not self._done.done():
            self.reusable = self._parser.should_keep_alive()
            self._done.set_result(None)

    def _fail(self, why: str) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(HttpError(why))
