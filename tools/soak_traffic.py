"""What `tools/soak.py` sends: requests of all sorts, with the statuses that each may get."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx

WORDS = ("def", "return", "import", "print", "for", "in", "range", "self", "class", "1", "2", "(", ")", ":", "=", "é")
TOOL = {
    "type": "object",
    "properties": {"path": {"enum": ["a.py", "b.py"]}, "line": {"type": "integer"}},
    "required": ["path", "line"],
    "additionalProperties": False,
}


@dataclass
class Maker:
    """Makes bodies of requests.

    Args:
        model: what the server calls its model.
        longest: tokens of its context.
        rng: chooses.
    """

    model: str
    longest: int
    rng: random.Random

    def text(self, words: int) -> str:
        """Words that nobody sent before."""
        return " ".join(self.rng.choices(WORDS, k=words))

    def chat(self, words: int = 12, **more: Any) -> dict[str, Any]:
        """A body for both dialects."""
        messages = [{"role": "user", "content": self.text(words)}]
        return {"model": self.model, "messages": messages, "max_tokens": self.rng.randint(1, 24), **more}


Send = Callable[[Maker, httpx.AsyncClient], Awaitable[int]]


def _post(path: str, body: Callable[[Maker], Any]) -> Send:
    async def send(maker: Maker, http: httpx.AsyncClient) -> int:
        return (await http.post(path, json=body(maker))).status_code

    return send


def _raw(path: str, content: bytes) -> Send:
    async def send(maker: Maker, http: httpx.AsyncClient) -> int:
        return (await http.post(path, content=content)).status_code

    return send


def _stream(path: str, body: Callable[[Maker], Any], end: str, leaves: bool = False) -> Send:
    """Read a stream to its `end`, or leave after the first piece."""

    async def send(maker: Maker, http: httpx.AsyncClient) -> int:
        last = ""
        async with http.stream("POST", path, json={**body(maker), "stream": True}) as response:
            async for line in response.aiter_lines():
                if leaves and line.startswith("data"):
                    return response.status_code
                last = line or last
        if response.status_code == 200 and end not in last:
            raise httpx.RemoteProtocolError(f"the stream ended with {last[:100]!r}")
        return response.status_code

    return send


async def _leave(maker: Maker, http: httpx.AsyncClient) -> int:
    """Wait for a whole answer, but not long."""
    try:
        body = maker.chat(max_tokens=500)
        return (await http.post("/v1/messages", json=body, timeout=maker.rng.uniform(0.001, 0.2))).status_code
    except httpx.TimeoutException:
        return 0


async def _half_a_body(maker: Maker, http: httpx.AsyncClient) -> int:
    """Say that much will come, send little, and go."""
    _, writer = await asyncio.open_connection(http.base_url.host, http.base_url.port)
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 5000\r\n\r\n{")
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    return 0


async def _burst(maker: Maker, http: httpx.AsyncClient) -> int:
    """Many at once, each on a connection of its own; the worst status of all."""
    asked = [http.post("/v1/chat/completions", json=maker.chat(max_tokens=4)) for _ in range(16)]
    return max(response.status_code for response in await asyncio.gather(*asked))


def _agent(maker: Maker) -> dict[str, Any]:
    """A turn behind a long beginning that all agents share, and a call that must be made."""
    tools = [{"type": "function", "function": {"name": "open_file", "parameters": TOOL, "strict": True}}]
    shared = {"role": "system", "content": "You program. " * 20}
    body = maker.chat(tools=tools, tool_choice="required", parallel_tool_calls=False)
    return {**body, "messages": [shared, *body["messages"]], "max_tokens": 200}


def _agent_anthropic(maker: Maker) -> dict[str, Any]:
    body = maker.chat(max_tokens=200, system="You program. " * 20, tool_choice={"type": "any"})
    return {**body, "tools": [{"name": "open_file", "input_schema": TOOL, "strict": True}]}


def _responses(maker: Maker) -> dict[str, Any]:
    return {"model": maker.model, "input": maker.text(12), "max_output_tokens": 12}


def _scored(maker: Maker) -> dict[str, Any]:
    prompts = [maker.text(20) for _ in range(3)]
    return {"model": maker.model, "prompt": prompts, "max_tokens": 1, "echo": True, "logprobs": 1}


def _huge(maker: Maker) -> dict[str, Any]:
    return {
        "model": maker.model,
        "prompt": [maker.rng.randrange(30, 200) for _ in range(maker.longest - 8)],
        "max_tokens": 4,
    }


def _too_long(maker: Maker) -> dict[str, Any]:
    return maker.chat(words=8 * maker.longest)


def _no_grammar(maker: Maker) -> dict[str, Any]:
    """A schema that cannot be held to, another one each time."""
    schema = {"type": "object", "not": {"required": [maker.text(3)]}, "properties": {maker.text(2): {}}}
    return maker.chat(
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    )


CHAT, COMPLETIONS, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"
SORTS: dict[str, tuple[set[int], Send]] = {
    "chat": ({200}, _post(CHAT, Maker.chat)),
    "chat, several": ({200}, _post(CHAT, lambda maker: maker.chat(n=3, logprobs=True, top_logprobs=2))),
    "chat, streamed": ({200}, _stream(CHAT, Maker.chat, "[DONE]")),
    "messages": ({200}, _post(MESSAGES, Maker.chat)),
    "messages, streamed": ({200}, _stream(MESSAGES, Maker.chat, "message_stop")),
    "responses, streamed": ({200}, _stream(RESPONSES, _responses, "response.")),
    "responses, kept": ({200}, _post(RESPONSES, _responses)),
    "prompts scored": ({200}, _post(COMPLETIONS, _scored)),
    "tool call": ({200}, _post(CHAT, _agent)),
    "tool call, streamed": ({200}, _stream(MESSAGES, _agent_anthropic, "message_stop")),
    "left in a stream": ({200}, _stream(CHAT, lambda maker: maker.chat(max_tokens=500), "", leaves=True)),
    "left in an answer": ({0, 200}, _leave),
    "left in a body": ({0}, _half_a_body),
    "burst": ({200, 429}, _burst),
    "huge": ({200}, _post(COMPLETIONS, _huge)),
    "too long": ({400}, _post(MESSAGES, _too_long)),
    "no JSON": ({400}, _raw(CHAT, b'{"model": ')),
    "deep JSON": ({400}, _raw(MESSAGES, b"[" * 100_000)),
    "wrong types": ({400}, _post(CHAT, lambda maker: maker.chat(temperature="hot"))),
    "no such model": ({404}, _post(MESSAGES, lambda maker: maker.chat(model=maker.text(1)))),
    "no grammar": ({400}, _post(CHAT, _no_grammar)),
    "no such route": ({404}, _raw("/v1/nothing", b"")),
}
"""What is sent, with the statuses that it may get (0: the client left) and how."""
