"""How keys travel from whoever computes prompts to whoever answers: the messages, and their frames on a socket.

The answering side asks for a prompt's keys from some position on, once it has pages for all of them (`Fetch`). What
comes back, pass by pass of the prompt: the rows of each buffer as soon as they are written, while later sublayers are
still being computed (`Rows`), the states behind pages (`States`), and how far all is complete (`Computed`). Behind the
last pass comes the first token in its place (`First`). Either side may give a prompt up (`Cancel`, `Failed`); a
connection that ends gives up all of its prompts.

A frame is a header (magic, lengths, a checksum of what follows), a message in msgpack, and the bytes of its numbers, in
the dtype and byte order of the machine; both sides show each other that they have the same model, options and dtype.
"""

from __future__ import annotations

import hashlib
import secrets
import socket
import struct
import sys
import zlib
from typing import TypeVar

import msgspec
from torch import Tensor

from homegrown.config import ModelConfig
from homegrown.serve.engine.options import EngineOptions
from homegrown.serve.messages import Request, TokenScore
from homegrown.serve.spread.orders import exactly, to_bytes

T = TypeVar("T")

VERSION = 1
_HEADER = struct.Struct("!4sIQI")
_MAGIC = b"HGKV"
GREETING = 1 << 12
"""Bytes of a message from somebody who has shown nothing yet, at most."""
MESSAGE = 1 << 26
"""Of any other message: a prompt of a million tokens is a tenth of this."""
NUMBERS = 1 << 31
"""Of the numbers behind a message."""


class TransferError(Exception):
    """The other side is not who it should be, or what it sent is damaged; the message says in which way."""


# From the answering side


class Hello(msgspec.Struct, frozen=True, tag=True):
    """Always first.

    Attributes:
        version: of the protocol.
        secret: shows that one may ask.
        shape: of the pages and what is in them (`shape_of`).
    """

    version: int
    secret: bytes
    shape: bytes


class Fetch(msgspec.Struct, frozen=True, tag=True):
    """Compute a prompt.

    Attributes:
        ticket: names it on this connection from now on.
        request: whose; its first token is wanted too.
        start: keys from this position on are wanted.
    """

    ticket: int
    request: Request
    start: int


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """A prompt is not wanted any more."""

    ticket: int


# From the computing side


class Welcome(msgspec.Struct, frozen=True, tag=True):
    """Prompts may be asked for."""


class Refused(msgspec.Struct, frozen=True, tag=True):
    """They may not: a sentence."""

    reason: str


class Rows(msgspec.Struct, frozen=True, tag=True):
    """Keys of consecutive positions, from `first` on, in the buffer of a kind ("latent", "index") and a slot."""

    ticket: int
    kind: str
    slot: int
    first: int


class States(msgspec.Struct, frozen=True, tag=True):
    """The states behind the newest tokens of consecutive pages of the sequence, from its page number `first` on."""

    ticket: int
    first: int


class Computed(msgspec.Struct, frozen=True, tag=True):
    """All that there is of the positions before `stop` has been sent."""

    ticket: int
    stop: int


class First(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The same of the whole prompt; and the first token, drafts behind it, and what goes with it.

    Attributes:
        cached: tokens of the prompt that the computing side knew already.
    """

    ticket: int
    token: int
    scores: list[TokenScore] | None
    compute: list[float]
    drafts: list[int]
    cached: int


class Failed(msgspec.Struct, frozen=True, tag=True):
    """A prompt will not come: a sentence."""

    ticket: int
    reason: str


Asked = Hello | Fetch | Cancel
Answered = Welcome | Refused | Rows | States | Computed | First | Failed

_encoder = msgspec.msgpack.Encoder()
asked: msgspec.msgpack.Decoder[Asked] = msgspec.msgpack.Decoder(Asked)
answered: msgspec.msgpack.Decoder[Answered] = msgspec.msgpack.Decoder(Answered)


def send(sock: socket.socket, message: Asked | Answered, numbers: bytes = b"") -> None:
    """Send a message and the numbers that belong to it."""
    body = _encoder.encode(message)
    check = zlib.crc32(numbers, zlib.crc32(body))
    sock.sendall(_HEADER.pack(_MAGIC, len(body), len(numbers), check) + body)
    if numbers:
        sock.sendall(numbers)


def receive(sock: socket.socket, decoder: msgspec.msgpack.Decoder[T], most: int = MESSAGE) -> tuple[T, bytes] | None:
    """The next message and its numbers; `None` where the connection has been closed.

    Args:
        sock: blocking.
        decoder: `asked` or `answered`.
        most: bytes that the message may have.

    Raises:
        TransferError: what came is no such message, too large, or damaged.
    """
    head = exactly(sock, _HEADER.size)
    if head is None:
        return None
    magic, length, count, check = _HEADER.unpack(head)
    if magic != _MAGIC or length > most or count > NUMBERS:
        raise TransferError("what came is no message of this protocol")
    body = exactly(sock, length)
    numbers = exactly(sock, count) if body is not None else None
    if body is None or numbers is None:
        return None
    if zlib.crc32(numbers, zlib.crc32(body)) != check:
        raise TransferError("a message was damaged on its way: its checksum is another one")
    try:
        return decoder.decode(body), numbers
    except msgspec.MsgspecError as error:
        raise TransferError(f"what came is no message of this protocol: {error}") from None


def shape_of(config: ModelConfig, options: EngineOptions, sample: Tensor) -> bytes:
    """A digest of all that must be the same on both sides for keys of one to be keys of the other.

    Args:
        config, options: of the engine.
        sample: some weights of the model, in the dtype of the keys.
    """
    digest = hashlib.sha256(repr(config).encode())
    chunk = options.chunk if options.invariant else 0
    facts = (options.page_size, options.drafts(config) > 0, options.invariant, chunk, sample.dtype, sys.byteorder)
    digest.update(repr(facts).encode() + to_bytes(sample))
    return digest.digest()


def greet(sock: socket.socket, secret: bytes, shape: bytes) -> None:
    """Say who one is, and hear whether one may ask.

    Raises:
        TransferError: one may not.
    """
    send(sock, Hello(VERSION, secret, shape))
    got = receive(sock, answered)
    if got is None:
        raise TransferError("the other side closed the connection without a word")
    if not isinstance(got[0], Welcome):
        raise TransferError(got[0].reason if isinstance(got[0], Refused) else "the other side did not say welcome")


def admit(sock: socket.socket, secret: bytes, shape: bytes) -> None:
    """Hear who somebody is, and say whether they may ask.

    Raises:
        TransferError: they may not; they were told.
    """
    got = receive(sock, asked, GREETING)
    hello = got[0] if got else None
    reason = ""
    if not isinstance(hello, Hello) or not secrets.compare_digest(hello.secret, secret):
        reason = "who asks has not shown the secret that both sides share"
    elif hello.version != VERSION:
        reason = f"who asks speaks version {hello.version} of the protocol, and this is version {VERSION}"
    elif hello.shape != shape:
        reason = (
            "the two sides do not have the same model with the same dtype, page size, chunk, drafts and invariance; "
            "start both with the same ones"
        )
    send(sock, Refused(reason) if reason else Welcome())
    if reason:
        raise TransferError(reason)


def listen(address: str) -> socket.socket:
    """A socket that listens at `unix:PATH` or `HOST:PORT`."""
    if address.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(address.removeprefix("unix:"))
        sock.listen()
        return sock
    return socket.create_server(_host_port(address))


def connect(address: str, seconds: float) -> socket.socket:
    """A connection to such an address; raises `OSError` where nobody listens."""
    if address.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(seconds)
        try:
            sock.connect(address.removeprefix("unix:"))
        except OSError:
            sock.close()
            raise
        return sock
    sock = socket.create_connection(_host_port(address), seconds)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def let_be_silent(sock: socket.socket, seconds: float) -> None:
    """The other side may send nothing for as long as it likes, but must take what is sent within so many seconds."""
    sock.settimeout(None)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(seconds), 0))


def _host_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)
