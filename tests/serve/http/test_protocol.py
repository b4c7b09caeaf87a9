"""Clients that send or read too slowly, or no HTTP at all."""

import json
import socket
import time

import pytest

from homegrown.serve.http.protocol import Patience

from ..scripted import ScriptedBackend
from .live import CHAT, live, until

PATIENCE = Patience(
    headers_s=0.4, body_s=0.4, slowest=100, write_s=0.5, headers=20, header_bytes=2000, send_buffer=4096
)


@pytest.fixture(scope="module")
def server():
    with live(ScriptedBackend([77, 78]), patience=PATIENCE) as server:
        yield server


def hangs_up(sock, within):
    """Everything that comes until the server hangs up, which it must do in time."""
    sock.settimeout(within)
    found = b""
    while part := sock.recv(1 << 16):
        found += part
    return found


def test_silence(server):
    with server.connect() as sock:
        assert b" 408 " in hangs_up(sock, 3)


def test_headers_drop_by_drop(server):
    with server.connect() as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\n")
        with pytest.raises(OSError):  # which of the writes fails is the system's choice
            for _ in range(40):
                sock.sendall(b"x-a: b\r\n")
                time.sleep(0.05)


@pytest.mark.parametrize("framing", (b"content-length: 1000", b"transfer-encoding: chunked"))
def test_a_body_drop_by_drop(server, framing):
    with server.connect() as sock:
        sock.sendall(b"POST /v1/messages HTTP/1.1\r\nhost: x\r\n" + framing + b"\r\n\r\n")
        assert b" 408 " in hangs_up(sock, 3)
    until(lambda: server.front.admission.running == 0)


def test_a_body_that_nobody_waits_for(server):
    """The answer is given before the body has come; then the rest of it must come in time too."""
    with server.connect() as sock:
        sock.sendall(b"POST /nope HTTP/1.1\r\nhost: x\r\ncontent-length: 999999999\r\n\r\n")
        found = hangs_up(sock, 3)
    assert b" 413 " in found
    assert b" 408 " not in found


def test_a_body_that_makes_progress(server):
    body = json.dumps(CHAT).encode().ljust(1000)
    with server.connect() as sock:
        sock.sendall(b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n")
        for start in range(0, 1000, 100):
            sock.sendall(body[start : start + 100])
            time.sleep(0.1)
        assert b" 200 " in sock.recv(1 << 16)


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\n" + b"x-a: b\r\n" * 21 + b"\r\n",
        b"GET / HTTP/1.1\r\nx-a: " + b"b" * 3000 + b"\r\n\r\n",
        b"GET /" + b"a" * 3000 + b" HTTP/1.1\r\n\r\n",
    ],
)
def test_too_many_headers(server, head):
    with server.connect() as sock:
        sock.sendall(head)
        found = hangs_up(sock, 3)
    assert b" 431 " in found
    assert json.loads(found.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("garbage", (b"\x16\x03\x01\x02\x00\x01\x00", b"hello\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"))
def test_no_http(server, garbage):
    with server.connect() as sock:
        sock.sendall(garbage)
        assert b" 400 " in hangs_up(sock, 3)
    assert server.ask("GET", "/health")[0] == 200


def test_connections_are_kept(server):
    with server.connect() as sock:
        for _ in range(3):
            sock.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            found = sock.recv(1 << 16)
            assert b" 200 " in found
            while not found.endswith(b'{"status":"ok"}'):
                found += sock.recv(1 << 16)


def test_a_client_that_does_not_read():
    backend = ScriptedBackend([77] * 1000, pause=0.005)
    body = json.dumps({**CHAT, "stream": True, "max_tokens": 1000, "n": 8}).encode()
    with live(backend, patience=PATIENCE) as server:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            sock.connect(("127.0.0.1", server.port))
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
            sock.sendall(head + body)
            until(lambda: server.front.admission.running == 1)
            until(lambda: server.front.admission.running == 0)
            until(lambda: not server.server.server_state.connections)
        assert backend.aborted
