"""What the first rank of a replica tells the others, over sockets that may be silent for as long as nobody asks for
anything."""

from __future__ import annotations

import os
import queue
import secrets
import socket
import struct
import threading
from collections.abc import Callable
from typing import TypeVar

import msgspec
import torch
from torch import Tensor

from homegrown.parallel.collectives import gather_objects
from homegrown.parallel.groups import Group
from homegrown.serve.engine.batch import Batch, DraftBatch

T = TypeVar("T")

_LENGTH = struct.Struct("!Q")
_SECRET = 16
"""Bytes by which a follower shows that it is one."""


class RankError(RuntimeError):
    """A rank of the replica is gone."""


class Forward(msgspec.Struct, frozen=True, tag=True):
    """Run a pass."""

    batch: Batch


class Propose(msgspec.Struct, frozen=True, tag=True):
    """Draft."""

    batch: DraftBatch


class Write(msgspec.Struct, frozen=True, tag=True):
    """Numbers that did not come out of a pass.

    Attributes:
        kind: "latent" or "index": cells of a slot's keys; "states": those behind pages; "pages": whole pages of a
            buffer.
        slot: the sublayer's, or the buffer's number.
        places: rows of the buffer.
        data: their bytes.
    """

    kind: str
    slot: int
    places: list[int]
    data: bytes


class Clear(msgspec.Struct, frozen=True, tag=True):
    """Set pages to zero."""

    pages: list[int]


class Stop(msgspec.Struct, frozen=True, tag=True):
    """End."""


Order = Forward | Propose | Write | Clear | Stop

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Order] = msgspec.msgpack.Decoder(Order)


def to_bytes(rows: Tensor) -> bytes:
    """A tensor's numbers."""
    return rows.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()


def from_bytes(data: bytes, dtype: torch.dtype, width: int) -> Tensor:
    """The same numbers as [rows, width], on the host."""
    return torch.frombuffer(bytearray(data), dtype=dtype).view(-1, width)


class Leader:
    """The first rank's end.

    Args:
        followers: sockets to the other ranks, in order.
    """

    def __init__(self, followers: list[socket.socket]) -> None:
        self._followers = followers

    def tell(self, order: Order) -> None:
        """Tell everybody; does not wait until it is done.

        Raises:
            RankError: somebody is gone.
        """
        body = _encoder.encode(order)
        try:
            for follower in self._followers:
                follower.sendall(_LENGTH.pack(len(body)))
                follower.sendall(body)
        except OSError as error:
            raise RankError(f"a rank of the replica cannot be reached: {error}") from None

    def watch(self, lost: Callable[[int], None]) -> None:
        """Call `lost` with the rank whose connection closes first, from another thread."""
        for number, follower in enumerate(self._followers):
            threading.Thread(target=_watch, args=(follower, number + 1, lost), daemon=True).start()

    def close(self) -> None:
        """Tell everybody to end."""
        try:
            self.tell(Stop())
        except RankError:
            return  # whoever is gone has ended


class Follower:
    """Another rank's end: orders as they came. Behind the first rank's end comes a `Stop`.

    Args:
        sock: to the first rank.
        gone: called, in another thread, once it has closed the connection.
    """

    def __init__(self, sock: socket.socket, gone: Callable[[], None]) -> None:
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        threading.Thread(target=self._read, args=(sock, gone), daemon=True).start()

    def next(self) -> Order:
        """Wait for an order."""
        return self._orders.get()

    def _read(self, sock: socket.socket, gone: Callable[[], None]) -> None:
        while (head := exactly(sock, _LENGTH.size)) is not None:
            body = exactly(sock, _LENGTH.unpack(head)[0])
            if body is None:
                break
            self._orders.put(_decoder.decode(body))
        self._orders.put(Stop())
        gone()


def lead(group: Group, host: str) -> Leader:
    """Listen at an address of this host, and wait for the other ranks (`follow`). Collective; for the first rank."""
    with socket.create_server((host, 0), backlog=group.size) as server:
        secret = secrets.token_bytes(_SECRET)
        gather_objects((*server.getsockname()[:2], secret), group)
        found: dict[int, socket.socket] = {}
        while len(found) < group.size - 1:
            sock = server.accept()[0]
            shown = exactly(sock, _SECRET + _LENGTH.size)
            if shown is None or not secrets.compare_digest(shown[:_SECRET], secret):
                sock.close()  # somebody else
                continue
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            found[_LENGTH.unpack(shown[_SECRET:])[0]] = sock
    return Leader([found[rank] for rank in range(1, group.size)])


def follow(group: Group, gone: Callable[[], None]) -> Follower:
    """Connect to the first rank. Collective; for the others."""
    host, port, secret = gather_objects(None, group)[0]
    sock = socket.create_connection((host, port))
    sock.sendall(secret + _LENGTH.pack(group.rank))
    return Follower(sock, gone)


def exactly(sock: socket.socket, count: int) -> bytes | None:
    """So many bytes; `None` where the connection has been closed before."""
    data, got = bytearray(count), 0
    view = memoryview(data)
    while got < count:
        try:
            part = sock.recv_into(view[got:])
        except OSError:
            part = 0
        if not part:
            return None
        got += part
    return bytes(data)


def _watch(sock: socket.socket, rank: int, lost: Callable[[int], None]) -> None:
    exactly(sock, 1)  # followers say nothing
    lost(rank)


def end_soon(seconds: float) -> None:
    """End this process, whatever its other threads are waiting for; those get a moment to end it themselves."""
    threading.Event().wait(seconds)
    os._exit(1)
