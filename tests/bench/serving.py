"""A server of OpenAI's completion APIs that says what it is told, when it is told, on a loopback port."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route


@dataclass
class Script:
    """An answer.

    Attributes:
        pieces: (seconds before it, text) of each.
        tokens: that usage counts; -1: no usage is sent.
        status: anything but 200 is an error response.
        cut: the stream ends in the middle.
        error: sent in the stream, behind the pieces.
    """

    pieces: list[tuple[float, str]] = field(default_factory=lambda: [(0.0, " a"), (0.0, " b")])
    tokens: int = 2
    prompt_tokens: int = 10
    cached: int = 0
    accepted: int = 0
    rejected: int = 0
    token_ids: list[int] = field(default_factory=list)
    status: int = 200
    cut: bool = False
    error: str = ""
    reasoning: bool = False


class Scripted:
    """The application.

    Args:
        script: of every request, from its body.

    Attributes:
        bodies: of all requests, in order.
        running, most: requests under way, now and at most.
        connections: that were opened, by the client's port.
    """

    def __init__(self, script: Callable[[dict[str, Any]], Script]) -> None:
        self._script = script
        self.bodies: list[dict[str, Any]] = []
        self.running = self.most = 0
        self.connections: set[int] = set()
        self.app = Starlette(
            routes=[
                Route("/v1/models", self._models),
                Route("/v1/completions", self._answer, methods=["POST"]),
                Route("/v1/chat/completions", self._answer, methods=["POST"]),
            ]
        )

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "scripted"}]})

    async def _answer(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        self.connections.add(request.client.port)
        script = self._script(body)
        if script.status != 200:
            return JSONResponse({"error": {"message": "the queue is full"}}, script.status)
        return StreamingResponse(self._stream(script, "messages" in body), media_type="text/event-stream")

    async def _stream(self, script: Script, chat: bool):
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if chat:
                yield _event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
            for number, (pause, text) in enumerate(script.pieces):
                await asyncio.sleep(pause)
                choice = {"index": 0, "finish_reason": None}
                choice |= {"delta": {_field(script): text}} if chat else {"text": text}
                if script.token_ids:
                    choice["token_ids"] = [7] * script.token_ids[number]
                yield ": keep-alive\n\n" + _event({"choices": [choice]})
            if script.cut:
                return
            if script.error:
                yield _event({"error": {"message": script.error}})
                return
            end = {"delta": {}} if chat else {"text": ""}
            yield _event({"choices": [{"index": 0, "finish_reason": "length", **end}]})
            if script.tokens >= 0:
                yield _event({"choices": [], "usage": _usage(script)})
            yield "data: [DONE]\n\n"
        finally:
            self.running -= 1


def _field(script: Script) -> str:
    return "reasoning_content" if script.reasoning else "content"


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data)}\n\n"


def _usage(script: Script) -> dict[str, Any]:
    return {
        "prompt_tokens": script.prompt_tokens,
        "completion_tokens": script.tokens,
        "prompt_tokens_details": {"cached_tokens": script.cached},
        "completion_tokens_details": {
            "accepted_prediction_tokens": script.accepted,
            "rejected_prediction_tokens": script.rejected,
        },
    }


@contextmanager
def listening(scripted: Scripted) -> Iterator[str]:
    """The server's address while it runs, in a thread of its own."""
    config = uvicorn.Config(scripted.app, host="127.0.0.1", port=0, log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    sock = config.bind_socket()
    sock.listen()  # who connects before the thread is ready waits
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
