"""Frames and greetings of the transfer of keys."""

from __future__ import annotations

import socket
import threading

import pytest
import torch

from homegrown.serve.engine.options import EngineOptions
from homegrown.serve.spread.transfer import (
    VERSION,
    Cancel,
    Hello,
    Rows,
    TransferError,
    admit,
    answered,
    greet,
    receive,
    send,
    shape_of,
)
from tests.serve.tiny import tiny_config


def sent(*frames) -> bytes:
    ours, theirs = socket.socketpair()
    for frame in frames:
        send(ours, *frame)
    ours.close()
    data = b""
    while part := theirs.recv(1 << 16):
        data += part
    return data


def read(data: bytes, most: int = 1 << 20):
    ours, theirs = socket.socketpair()
    ours.sendall(data)
    ours.close()
    return receive(theirs, answered, most)


def test_there_and_back() -> None:
    numbers = torch.arange(6, dtype=torch.bfloat16).view(torch.uint8).numpy().tobytes()
    assert read(sent((Rows(3, "latent", 1, 40), numbers))) == (Rows(3, "latent", 1, 40), numbers)
    assert read(b"") is None


def test_every_damage_is_seen() -> None:
    data = sent((Rows(3, "latent", 1, 40), bytes(8)))
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 4
        try:
            assert read(bytes(damaged)) is None  # a length that is too large: the rest never comes
        except TransferError:
            continue
    assert read(data[:-1]) is None
    with pytest.raises(TransferError, match="no message of this protocol"):
        read(sent((Cancel(1),)))
    with pytest.raises(TransferError, match="no message of this protocol"):
        read(data, most=4)


@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        (Hello(VERSION, b"secret", b"shape"), ""),
        (Hello(VERSION, b"guess", b"shape"), "has not shown the secret"),
        (Hello(VERSION + 1, b"secret", b"shape"), f"speaks version {VERSION + 1}"),
        (Hello(VERSION, b"secret", b"other"), "do not have the same model"),
        (Cancel(1), "has not shown the secret"),
    ],
)
def test_who_may_ask(hello, reason) -> None:
    ours, theirs = socket.socketpair()
    send(ours, hello)
    if not reason:
        admit(theirs, b"secret", b"shape")
        return
    with pytest.raises(TransferError, match=reason):
        admit(theirs, b"secret", b"shape")


def test_a_greeting() -> None:
    for shape, reason in ((b"shape", ""), (b"other", "do not have the same model")):
        ours, theirs = socket.socketpair()

        def answer(sock=theirs) -> None:
            try:
                admit(sock, b"secret", b"shape")
            except TransferError:
                sock.close()

        thread = threading.Thread(target=answer)
        thread.start()
        if reason:
            with pytest.raises(TransferError, match=reason):
                greet(ours, b"secret", shape)
        else:
            greet(ours, b"secret", shape)
        thread.join()


def test_shapes_differ_where_keys_would() -> None:
    config, weight = tiny_config(), torch.ones(4)
    base = EngineOptions(chunk=16)
    same = [base, EngineOptions(chunk=32), EngineOptions(chunk=16, pages=9)]
    assert {shape_of(config, options, weight) for options in same} == {shape_of(config, base, weight)}
    others = [
        shape_of(config, EngineOptions(page_size=16), weight),
        shape_of(config, EngineOptions(speculate=0), weight),
        shape_of(config, EngineOptions(invariant=True), weight),
        shape_of(config, EngineOptions(invariant=True, chunk=64), weight),
        shape_of(config, base, weight.bfloat16()),
        shape_of(config, base, weight * 2),
        shape_of(tiny_config(num_layers=1), base, weight),
        shape_of(config, base, weight),
    ]
    assert len(set(others)) == len(others)
