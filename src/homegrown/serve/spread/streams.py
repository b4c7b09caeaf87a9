"""The computing side's connections: who asks for prompts, and keys on their way to them."""

from __future__ import annotations

import logging
import queue
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from homegrown.serve.engine.buffers import Kind
from homegrown.serve.spread.orders import to_bytes
from homegrown.serve.spread.transfer import (
    Answered,
    Cancel,
    Computed,
    Failed,
    Fetch,
    First,
    Rows,
    States,
    TransferError,
    admit,
    asked,
    let_be_silent,
    listen,
    receive,
    send,
)

_log = logging.getLogger(__name__)

STALL_S = 30.0
"""Seconds in which some of what was sent must be taken, or the connection is given up."""
AHEAD = 256
"""Frames that wait to be sent; whoever computes waits behind so many, until some are taken or the stall is over."""


class Gone(NamedTuple):
    """A connection has ended."""


class Connection:
    """Somebody who asks. What is sent goes out from a thread; once the connection has ended it is dropped.

    Args:
        sock: they were admitted.
        number: names the connection.
    """

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.number, self._sock = number, sock
        self._frames: queue.Queue[tuple[Answered, bytes] | None] = queue.Queue(AHEAD)
        self._open = True
        threading.Thread(target=self._write, daemon=True).start()

    def send(self, message: Answered, numbers: bytes = b"") -> None:
        """Send a message, behind those before it."""
        while self._open:
            with suppress(queue.Full):
                self._frames.put((message, numbers), timeout=0.1)
                return

    def close(self) -> None:
        """Hang up."""
        self._open = False
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        with suppress(queue.Full):
            self._frames.put_nowait(None)

    def _write(self) -> None:
        while self._open and (frame := self._frames.get()) is not None:
            try:
                send(self._sock, *frame)
            except OSError:
                self.close()


class Stream:
    """One prompt's keys on their way.

    Args:
        connection, ticket: whose.
        start, stop: positions that are wanted, and not complete there yet.

    Attributes:
        begun: whether a pass has run.
    """

    def __init__(self, connection: Connection, ticket: int, start: int, stop: int) -> None:
        self.connection, self.ticket, self.start, self.stop = connection, ticket, start, stop
        self.begun = False

    def rows(self, kind: Kind, slot: int, first: int, rows_NW: Tensor) -> None:
        """Send those rows of positions from `first` on that are wanted."""
        low, high = max(first, self.start), min(first + len(rows_NW), self.stop)
        if low < high:
            numbers = to_bytes(rows_NW[low - first : high - first])
            self.connection.send(Rows(self.ticket, kind, slot, low), numbers)

    def states(self, first: int, rows_NH: Tensor) -> None:
        """Send the states behind pages."""
        self.connection.send(States(self.ticket, first), to_bytes(rows_NH))

    def computed(self, stop: int) -> None:
        """All before `stop` is sent."""
        if stop > self.start:
            self.connection.send(Computed(self.ticket, stop))
            self.start = stop  # what is computed again, since the prompt had to make room, is not sent again

    def end(self, message: First | Failed) -> None:
        """Nothing else will come."""
        self.connection.send(message)


class PrefillServer:
    """Listens for those who ask.

    Args:
        address: where: `unix:PATH`, whose file is replaced, or `HOST:PORT`.
        secret, shape: what they must show.
        wake: called, in another thread, when there is something in `inbox`.

    Attributes:
        inbox: what they ask, and when they are gone.
    """

    def __init__(self, address: str, secret: bytes, shape: bytes, wake: Callable[[], None]) -> None:
        self.inbox: queue.SimpleQueue[tuple[Connection, Fetch | Cancel | Gone]] = queue.SimpleQueue()
        self._secret, self._shape, self._wake = secret, shape, wake
        if address.startswith("unix:"):
            with suppress(FileNotFoundError):
                Path(address.removeprefix("unix:")).unlink()  # of a process that was killed
        self._listening = listen(address)
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        """Where it listens, for port 0."""
        return int(self._listening.getsockname()[1])

    def close(self) -> None:
        """Stop listening."""
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        number = 0
        with suppress(OSError):
            while True:
                sock = self._listening.accept()[0]
                number += 1
                threading.Thread(target=self._serve, args=(sock, number), daemon=True).start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        sock.settimeout(STALL_S)
        try:
            admit(sock, self._secret, self._shape)
        except (TransferError, OSError) as error:
            _log.warning("prompts are not computed for somebody who asked: %s", error)
            sock.close()
            return
        let_be_silent(sock, STALL_S)
        connection = Connection(sock, number)
        try:
            while (got := receive(sock, asked)) is not None:
                if isinstance(got[0], Fetch | Cancel):
                    self._put(connection, got[0])
        except TransferError as error:
            _log.warning("who asked for prompts sent nonsense: %s", error)
        connection.close()
        sock.close()
        self._put(connection, Gone())

    def _put(self, connection: Connection, message: Fetch | Cancel | Gone) -> None:
        self.inbox.put((connection, message))
        self._wake()
