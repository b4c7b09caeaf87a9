"""Whatever the body: never a server error, and an error always has its shape."""

import asyncio
import json

import pytest
from hypothesis import HealthCheck, given, settings
from openai.types.responses import Response

from ..dialects import asking, build
from ..mutation import mutated
from ..openai.serving import says

TEXT = {"type": "input_text", "text": "hi"}
BODY = {
    "model": "tiny",
    "instructions": "be",
    "input": [
        {"type": "message", "role": "developer", "content": [TEXT]},
        {"role": "user", "content": [TEXT, {"type": "input_image", "image_url": "x"}, {"type": "input_file"}]},
        {
            "type": "reasoning",
            "id": "rs",
            "summary": [{"type": "summary_text", "text": "s"}],
            "content": [{"type": "reasoning_text", "text": "s"}],
            "encrypted_content": "hg1.AAAA",
        },
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "s"}]},
        {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}", "namespace": "n"},
        {"type": "custom_tool_call", "call_id": "b", "name": "c", "input": "x"},
        {"type": "function_call_output", "call_id": "a", "output": "x"},
        {"type": "custom_tool_call_output", "call_id": "b", "output": [TEXT]},
        {"type": "item_reference", "id": "x"},
        {"type": "additional_tools", "tools": [{"type": "function", "name": "h"}]},
        {"role": "user", "content": "hi"},
    ],
    "tools": [
        {"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}, "strict": False},
        {"type": "custom", "name": "c", "format": {"type": "grammar", "syntax": "lark", "definition": "start: /x/"}},
        {"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "g"}]},
        {"type": "web_search"},
    ],
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
    "parallel_tool_calls": True,
    "reasoning": {"effort": "low", "summary": "auto"},
    "text": {"format": {"type": "text"}, "verbosity": "low"},
    "include": ["reasoning.encrypted_content"],
    "store": True,
    "stream": False,
    "background": False,
    "previous_response_id": None,
    "max_output_tokens": 8,
    "temperature": 1.0,
    "top_p": 0.9,
    "top_logprobs": 2,
    "metadata": {"a": "b"},
}
LAST = ("response.completed", "response.incomplete", "response.failed")


def check(path, data):
    app = build(says("a\n</longcat_think>\nb", at_a_time=4))

    async def run():
        async with asking(app) as http:
            response = await http.post(path, content=data)
            background = response.status_code == 200 and response.text.find('"background":true') > 0
            if background:  # it ends before its loop does
                await http.post(f"/v1/responses/{response.json()['id']}/cancel")
            return response

    response = asyncio.run(run())
    if response.headers["content-type"].startswith("text/event-stream"):
        assert response.text.rpartition("event: ")[2].startswith(LAST)
        return
    body = response.json()
    if response.status_code != 200:
        assert 400 <= response.status_code < 500, response.text
        assert set(body["error"]) == {"message", "type", "param", "code"}
        assert body["error"]["message"]
    elif path.endswith("responses"):
        assert Response.construct(**body).status in ("completed", "incomplete", "in_progress")
    else:
        assert body["input_tokens"] > 0


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutated(BODY))
def test_responses(body):
    data = json.dumps(body).encode()
    check("/v1/responses", data)
    check("/v1/responses/input_tokens", data)


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/responses/input_tokens"])
@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b"3", b'{"model": "\xff"}', b"\x00", b'{"input": ' + b"[" * 5000, b"{}"]
)
def test_what_is_no_body(path, data):
    check(path, data)


def test_the_whole_body_is_taken():
    check("/v1/responses", json.dumps({**BODY, "stream": True}).encode())
