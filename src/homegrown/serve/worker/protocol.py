"""What an engine and whoever runs it say to each other: messages in msgpack, each behind its length."""

from __future__ import annotations

import math
import socket
import struct
from typing import Literal, TypeVar

import msgspec

from homegrown.serve.engine.options import EngineOptions
from homegrown.serve.messages import Output, Request, Stats

T = TypeVar("T")

LENGTH = struct.Struct("!I")
"""Bytes of a message, before it."""


class ProtocolError(Exception):
    """Bytes that are no message of this version of homegrown."""


# Orders: to the engine


def world_size(tp: int, ep: int) -> int:
    """The fewest processes that tensor and expert parallelism both fit on."""
    return math.lcm(tp, ep)


class Transfer(msgspec.Struct, frozen=True, kw_only=True):
    """Prompts are computed apart from answers; this says which of the two an engine does, and where the other is.

    Attributes:
        secret: shared by both.
        listen: compute prompts for those who connect to this address, `unix:PATH` or `HOST:PORT`; and nothing else.
        ask: have prompts computed by those who listen at these addresses.
        own: prompts of which at most so many tokens are left are computed here all the same.
    """

    secret: bytes
    listen: str = ""
    ask: tuple[str, ...] = ()
    own: int = 0


class Launch(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Load a model and begin. Always the first order.

    Attributes:
        directory: a Hugging Face directory of the family.
        device: as `device.pick` takes it; `auto` is the accelerator, or the CPU where there is none.
        dtype: of the weights and the key cache; `stored` leaves them as they are on disk.
        weights: `int8` rounds large matrices to eight bits as they are read; `dtype` is then that of all else, bfloat16
            where it is `stored`.
        weights_check: what rounding is measured on, as `load_for_serving` takes it.
        threads: on the CPU; 0 takes every core this process may use, shared with its other ranks.
        options: how the engine runs.
        tp, ep: processes that heads, and that experts, are spread over (`spread.model.ranks_of`).
        transfer: what is computed where, if not all here.
        first: of this host's accelerators, the first one that is taken, where `device` leaves that open.
    """

    directory: str
    device: str = "auto"
    dtype: Literal["stored", "float32", "bfloat16", "float16"] = "stored"
    weights: Literal["stored", "int8"] = "stored"
    weights_check: str = "auto"
    threads: int = 0
    options: EngineOptions = EngineOptions()
    tp: int = 1
    ep: int = 1
    transfer: Transfer | None = None
    first: int = 0


class Add(msgspec.Struct, frozen=True, tag=True):
    """Run a request."""

    request: Request


class Abort(msgspec.Struct, frozen=True, tag=True):
    """End a request; it may have ended by itself."""

    id: str


class Close(msgspec.Struct, frozen=True, tag=True):
    """Drop everything and end."""


# Reports: from the engine


class Loading(msgspec.Struct, frozen=True, tag=True):
    """How far loading is.

    Attributes:
        stage: what begins, in words.
        seconds: since the process began.
    """

    stage: str
    seconds: float


class Ready(msgspec.Struct, frozen=True, tag=True):
    """Requests are taken.

    Attributes:
        seconds: since the process began.
        longest: tokens, prompt and answer together, that a request may have.
        pages, page_size: of the key cache.
    """

    seconds: float
    longest: int
    pages: int
    page_size: int


class Outputs(msgspec.Struct, frozen=True, tag=True):
    """What a step made, of all requests."""

    outputs: list[Output]


class Figures(msgspec.Struct, frozen=True, tag=True):
    """How the engine is doing; sent now and then."""

    stats: Stats


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The engine ends, for this reason: a sentence."""

    reason: str


class Wake(msgspec.Struct, frozen=True, tag=True):
    """There is something to do. Only from inside the engine's process."""


Order = Launch | Add | Abort | Close | Wake
Report = Loading | Ready | Outputs | Figures | Failed

_encoder = msgspec.msgpack.Encoder()
_orders: msgspec.msgpack.Decoder[Order] = msgspec.msgpack.Decoder(Order)
_reports: msgspec.msgpack.Decoder[Report] = msgspec.msgpack.Decoder(Report)


def frame(message: Order | Report) -> bytes:
    """A message behind its length."""
    body = _encoder.encode(message)
    return LENGTH.pack(len(body)) + body


def order(body: bytes) -> Order:
    """The order in a message; raises `ProtocolError`."""
    return _decode(_orders, body)


def report(body: bytes) -> Report:
    """The report in a message; raises `ProtocolError`."""
    return _decode(_reports, body)


def receive(sock: socket.socket) -> Order | None:
    """The next order from a blocking socket; `None` where it has been closed."""
    head = _exactly(sock, LENGTH.size)
    body = _exactly(sock, LENGTH.unpack(head)[0]) if head else None
    return None if body is None else order(body)


def _exactly(sock: socket.socket, count: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < count:
        try:
            part = sock.recv(min(count - len(parts), 1 << 20))
        except ConnectionError:
            part = b""
        if not part:
            return None
        parts += part
    return bytes(parts)


def _decode(decoder: msgspec.msgpack.Decoder[T], body: bytes) -> T:
    try:
        return decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"not a message of this version of homegrown: {error}") from None
