"""The answering side's connections to those who compute prompts."""

from __future__ import annotations

import logging
import queue
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from homegrown.serve.messages import Request
from homegrown.serve.spread.transfer import (
    Answered,
    Cancel,
    Fetch,
    TransferError,
    answered,
    connect,
    greet,
    let_be_silent,
    receive,
    send,
)

_log = logging.getLogger(__name__)

AGAIN_S, LATER_S = 0.1, 5.0
"""Seconds until the next try where nobody listens, and where one was refused."""
STALL_S = 30.0
"""Seconds that an answer to a greeting, or the taking of an order, may last."""


class Lost(NamedTuple):
    """A connection has ended, and all that was asked for over it will not come."""

    reason: str


class Arrival(NamedTuple):
    """Something came from whoever listens at an address."""

    address: str
    message: Answered | Lost
    numbers: bytes = b""


class Prompts:
    """Keeps a connection to everybody who computes prompts, each in a thread, and makes lost ones again.

    Args:
        addresses: where they listen.
        secret, shape: to be shown to them.
        wake: called, in another thread, when somebody can be reached or not any more.

    Attributes:
        arrived: what came.
    """

    def __init__(
        self, addresses: Sequence[str], secret: bytes, shape: bytes, wake: Callable[[], None] = lambda: None
    ) -> None:
        self.arrived: queue.SimpleQueue[Arrival] = queue.SimpleQueue()
        self._secret, self._shape, self._wake = secret, shape, wake
        self._socks: dict[str, socket.socket] = {}
        self._closed = False
        for address in addresses:
            threading.Thread(target=self._keep, args=(address,), daemon=True).start()

    @property
    def connected(self) -> list[str]:
        """Who can be asked at the moment."""
        return list(self._socks)

    def fetch(self, address: str, ticket: int, request: Request, start: int) -> None:
        """Ask for a prompt. If that is not possible any more, a `Lost` arrives."""
        self._tell(address, Fetch(ticket, request, start))

    def cancel(self, address: str, ticket: int) -> None:
        """Ask no more for it."""
        self._tell(address, Cancel(ticket))

    def hang_up(self, address: str) -> None:
        """End a connection, of somebody who sends nonsense; a `Lost` arrives."""
        sock = self._socks.get(address)
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End all connections, for good."""
        self._closed = True
        for address in self.connected:
            self.hang_up(address)

    def _tell(self, address: str, message: Fetch | Cancel) -> None:
        sock = self._socks.get(address)
        if sock is not None:
            try:
                send(sock, message)
            except OSError:
                self.hang_up(address)

    def _keep(self, address: str) -> None:
        told = ""
        while not self._closed:
            pause = AGAIN_S
            try:
                with connect(address, STALL_S) as sock:
                    greet(sock, self._secret, self._shape)
                    told = ""
                    self._read(address, sock)
            except OSError:
                pass  # not there yet, or not any more
            except TransferError as error:
                if told != str(error):
                    _log.error("prompts are computed here, since %s does not: %s", address, error)
                told, pause = str(error), LATER_S
            threading.Event().wait(pause)

    def _read(self, address: str, sock: socket.socket) -> None:
        let_be_silent(sock, STALL_S)
        self._socks[address] = sock
        self._wake()
        reason = "the connection has ended"
        try:
            while (got := receive(sock, answered)) is not None:
                self.arrived.put(Arrival(address, *got))
        except TransferError as error:
            reason = str(error)
        finally:
            del self._socks[address]
            self.arrived.put(Arrival(address, Lost(reason)))
            self._wake()
