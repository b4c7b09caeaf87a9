"""Whatever the body: never a server error, and an error always has its shape."""

import asyncio
import json

import pytest
from anthropic.types import Message
from hypothesis import HealthCheck, given, settings

from ..dialects import asking, build
from ..mutation import mutated
from ..openai.serving import says

TEXT = {"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}
BODY = {
    "model": "tiny",
    "max_tokens": 8,
    "system": [{"type": "text", "text": "x-anthropic-billing-header: a"}, TEXT],
    "messages": [
        {"role": "user", "content": [TEXT, {"type": "image", "source": {"type": "url", "url": "x"}}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "t", "signature": "s"},
                {"type": "redacted_thinking", "data": "d"},
                TEXT,
                {"type": "tool_use", "id": "a", "name": "f", "input": {"x": [1]}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "a", "is_error": True, "content": [TEXT]},
                {"type": "tool_result", "tool_use_id": "b", "content": [{"type": "tool_reference", "tool_name": "g"}]},
                {"type": "document", "title": "t", "source": {"type": "text", "data": "d"}},
                {"type": "document", "source": {"type": "content", "content": [TEXT]}},
                {"type": "search_result", "source": "s", "title": "t", "content": [TEXT]},
            ],
        },
        {
            "role": "system",
            "content": [TEXT, {"type": "tool_addition", "tool": {"type": "tool_reference", "name": "g"}}],
        },
        {"role": "user", "content": "hi"},
    ],
    "tools": [
        {"name": "f", "description": "d", "input_schema": {"type": "object", "properties": {}}, "strict": False},
        {"name": "g", "input_schema": {"type": "object"}, "defer_loading": True},
        {"type": "web_search_20250305", "name": "web_search"},
    ],
    "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    "thinking": {"type": "enabled", "budget_tokens": 1024, "display": "omitted"},
    "output_config": {"effort": "low", "format": None},
    "stop_sequences": ["x"],
    "stream": False,
    "temperature": 1.0,
    "top_p": 0.9,
    "top_k": 4,
    "seed": 1,
}


def check(path, data):
    app = build(says("a\n</longcat_think>\nb", at_a_time=4))

    async def run():
        async with asking(app) as http:
            return await http.post(path, content=data)

    response = asyncio.run(run())
    if response.headers["content-type"].startswith("text/event-stream"):
        assert response.text.endswith('event: message_stop\ndata: {"type":"message_stop"}\n\n')
        return
    body = response.json()
    if response.status_code != 200:
        assert 400 <= response.status_code < 500, response.text
        assert set(body) == {"type", "error", "request_id"}
        assert body["error"]["type"] in ("invalid_request_error", "not_found_error")
        assert body["error"]["message"].endswith((".", " maximum"))
    elif path.endswith("messages"):
        Message.model_validate(body)
    else:
        assert body["input_tokens"] > 0


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutated(BODY))
def test_messages(body):
    data = json.dumps(body).encode()
    check("/v1/messages", data)
    check("/v1/messages/count_tokens", data)


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b"3", b'{"model": "\xff"}', b"\x00", b'{"system": ' + b"[" * 5000, b"{}"]
)
def test_what_is_no_body(path, data):
    check(path, data)


def test_the_whole_body_is_taken():
    check("/v1/messages", json.dumps({**BODY, "stream": True}).encode())
