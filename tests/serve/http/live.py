"""The whole HTTP side on a loopback port, in a thread of its own, around any backend."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from homegrown.serve.backend import Backend
from homegrown.serve.card import ModelCard
from homegrown.serve.engine.engine import Engine
from homegrown.serve.engine.options import EngineOptions
from homegrown.serve.http.app import Front, build_app
from homegrown.serve.http.clients import Keys
from homegrown.serve.http.metered import MeteredBackend
from homegrown.serve.http.options import Options
from homegrown.serve.http.protocol import Patience
from homegrown.serve.http.server import Server, bind, make_server
from homegrown.serve.service import Service
from homegrown.serve.worker.thread import ThreadBackend

from ..tiny import tiny_config, tiny_model, tiny_tokenizer

CARD = ModelCard(id="tiny", context_length=2048, max_output=1024, thinking=False)
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "print"}], "max_tokens": 8}
"""A body for both dialects."""


@dataclass
class Live:
    """A running server."""

    front: Front
    server: Server
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], Any]:
        """Status, headers and body (decoded if it is JSON) of a request; `_` in header names stands for `-`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, data, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        content, found = response.read(), {name.lower(): value for name, value in response.getheaders()}
        connection.close()
        is_json = found.get("content-type") == "application/json" and content
        return response.status, found, json.loads(content) if is_json else content


@contextmanager
def live(
    backend: Backend,
    keys: Keys | None = None,
    patience: Patience | None = None,
    card: ModelCard = CARD,
    **options: Any,
) -> Iterator[Live]:
    """Serve the tiny model's card and tokenizer in front of a backend; yields once it is ready."""
    config = tiny_config(max_position_embeddings=card.context_length)
    service = Service(MeteredBackend(backend), tiny_tokenizer(), config, card)
    front = build_app(service, Options(**{"model": "tiny", "max_ttft": 0.0, **options}), keys)
    with serving(front, patience) as running:
        yield running


@contextmanager
def serving(front: Front, patience: Patience | None = None) -> Iterator[Live]:
    """Serve an application; yields once its backend is ready."""
    server, sock = make_server(front, patience=patience), bind("127.0.0.1", 0)
    running = Live(front, server, sock.getsockname()[1])
    thread = threading.Thread(target=lambda: asyncio.run(server.run_until_told(sock)), daemon=True)
    thread.start()
    try:
        until(lambda: server.started and front.loading is not None and front.loading.done())
        yield running
    finally:
        server.should_exit = True
        thread.join(30)
    assert not thread.is_alive()


def tiny_backend(**options: Any) -> ThreadBackend:
    """A real engine with the tiny model."""
    return ThreadBackend(Engine(tiny_model(), EngineOptions(**{"pages": 128, **options}), tiny_tokenizer()))


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for something."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
