"""HTTP connections that do not wait for ever for clients who send or read too slowly."""

from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

KIB = 2**10


@dataclass(frozen=True)
class Patience:
    """How long a connection is borne with; seconds and bytes.

    Attributes:
        headers_s: to the end of a request's headers.
        body_s, slowest: a body that is not complete must bring `slowest` bytes in every `body_s`.
        write_s: a client that reads less than some 48 KiB in this time, while more is waiting for it, is cut off.
        headers: of a request, at most.
        header_bytes: of all of them and the URL.
        send_buffer: of the operating system, for a connection: it grows to megabytes where nobody says.
    """

    headers_s: float = 15.0
    body_s: float = 30.0
    slowest: int = 30 * KIB
    write_s: float = 60.0
    headers: int = 128
    header_bytes: int = 64 * KIB
    send_buffer: int = 512 * KIB


class _TooLargeError(Exception):
    """Headers beyond their bounds; the parser passes it on as an error of its own."""


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with deadlines for reading and writing, and bounds for headers."""

    patience = Patience()

    _deadline: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None
    _count = _size = _received = 0
    _too_large = False
    _heading = True
    """Headers are awaited, not a body."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there."""
        super().connection_made(transport)
        connected = transport.get_extra_info("socket")
        if connected is not None and connected.family in (socket.AF_INET, socket.AF_INET6):
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.patience.send_buffer)
        self._expect(self.patience.headers_s, self._late)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._settle()
        self.resume_writing()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._count = self._size = 0
        self._heading = True
        self._expect(self.patience.headers_s, self._late)

    def on_url(self, url: bytes) -> None:
        """A part of its URL."""
        self._measure(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One of its headers."""
        self._count += 1
        self._measure(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Its body follows, if it has one."""
        super().on_headers_complete()
        self._heading = False
        self._received = 0
        self._expect(self.patience.body_s, self._look)

    def on_body(self, body: bytes) -> None:
        """A part of its body."""
        self._received += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """It is complete."""
        self._settle()
        super().on_message_complete()

    def pause_writing(self) -> None:
        """The client does not keep up with reading."""
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(self.patience.write_s, self.transport.abort)

    def resume_writing(self) -> None:
        """It has caught up."""
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        super().resume_writing()

    def on_response_complete(self) -> None:
        """An answer was handed to the operating system, or waits to be."""
        super().on_response_complete()
        if self.transport.is_closing():
            self.pause_writing()  # the last bytes are not waited for without end either

    def timeout_keep_alive_handler(self) -> None:
        """Nobody asks anything more: close, without waiting for ever for the last bytes to be read."""
        super().timeout_keep_alive_handler()
        self.pause_writing()

    def send_400_response(self, msg: str) -> None:
        """What came is not HTTP, or too much of it."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()  # an answer in the midst of another would be taken for a part of that
            return
        status = 431 if self._too_large else 400
        largest = self.patience
        text = f"a request has at most {largest.headers} headers and {largest.header_bytes} bytes of them"
        self._answer(status, text if self._too_large else "this is no HTTP request")

    def _measure(self, size: int) -> None:
        self._size += size
        if self._count > self.patience.headers or self._size > self.patience.header_bytes:
            self._too_large = True
            raise _TooLargeError

    def _expect(self, seconds: float, otherwise: Any) -> None:
        self._settle()
        self._deadline = self.loop.call_later(seconds, otherwise)

    def _settle(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _look(self) -> None:
        """Whether the body makes progress; it is not the client's fault where the server does not read."""
        if self._received < self.patience.slowest and not self.flow.read_paused:
            self._late()
        else:
            self._received = 0
            self._expect(self.patience.body_s, self._look)

    def _late(self) -> None:
        answered = self.cycle is not None and self.cycle.response_started
        if answered and not (self._heading and self.cycle.response_complete):
            self.transport.abort()
        else:
            self._answer(408, "the request did not arrive in time")

    def _answer(self, status: int, message: str) -> None:
        """Say why and hang up: there is no request whose dialect could be spoken, so it is that of most clients."""
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
        body = json.dumps({"error": error}).encode()
        self.transport.write(
            STATUS_LINE[status]
            + b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
            + body
        )
        self.transport.close()
