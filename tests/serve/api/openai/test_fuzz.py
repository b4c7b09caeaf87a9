"""Whatever the body: never a server error, and an error always has its shape."""

import asyncio
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .serving import asking, build, says

CHAT = {
    "model": "tiny",
    "messages": [
        {"role": "system", "content": "be"},
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "r",
            "reasoning_details": [{"type": "reasoning.text", "text": "r"}],
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "x"},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}],
    "tool_choice": "auto",
    "functions": None,
    "function_call": None,
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
    "structured_outputs": None,
    "regex": None,
    "grammar": None,
    "stop": ["x"],
    "stream": False,
    "stream_options": {"include_usage": True},
    "max_tokens": 4,
    "n": 1,
    "temperature": 1.0,
    "top_p": 0.9,
    "top_k": 3,
    "min_p": 0.1,
    "seed": 1,
    "logit_bias": {"3": 1.0},
    "logprobs": True,
    "top_logprobs": 2,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
    "stop_token_ids": [1],
    "min_tokens": 0,
    "priority": 0,
    "cache_salt": "",
    "reasoning": {"effort": "low"},
    "reasoning_effort": "low",
    "chat_template_kwargs": {"enable_thinking": True, "other": 1},
}
COMPLETION = {
    "model": "tiny", "prompt": "x", "echo": True, "logprobs": 1, "best_of": 1, "n": 1, "max_tokens": 2, "suffix": None,
    "stream": False, "stop": None, "regex": None, "logit_bias": None, "seed": 3, "stop_token_ids": None,
}  # fmt: skip
TOKENIZE = {"prompt": "x", "messages": None, "tools": None, "add_special_tokens": True, "return_token_strs": True}
DETOKENIZE = {"tokens": [3, 4], "model": "tiny"}

odd = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 30),
    st.sampled_from([2**31, 2**63, 2**64, -(2**63) - 1, 10**400, 1e308, -1e308, 5e-324, -0.0, 0.5, 1.5]),
    st.text(max_size=4),
    st.sampled_from(["", "\x00", "<longcat_think>", "</longcat_s>", "required", "none", "(", "[a-", "start:", "{{x}}"]),
)
values = st.recursive(
    odd,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "name", "function", "text", "role", "content", "$ref", "x"]), inner)
    ),
    max_leaves=5,
)


@st.composite
def mutated(draw, body):
    """A valid body in which one to three things, anywhere, are something else, gone or new."""
    result = json.loads(json.dumps(body))
    for _ in range(draw(st.integers(1, 3))):
        place = result
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and place[key] and draw(st.booleans()):
                place = place[key]
                continue
            if draw(st.integers(0, 4)) == 0:
                del place[key]
            else:
                place[key] = draw(values)
            break
    return result


def check(path, data):
    app = build(says("a\n</longcat_think>\nb", at_a_time=4))

    async def run():
        async with asking(app) as http:
            return await http.post(path, content=data)

    response = asyncio.run(run())
    if response.headers["content-type"].startswith("text/event-stream"):
        assert response.text.endswith("data: [DONE]\n\n"), response.text
        return
    body = response.json()
    if response.status_code != 200:
        assert 400 <= response.status_code < 500, response.text
        assert set(body["error"]) == {"message", "type", "param", "code"}
        assert isinstance(body["error"]["message"], str)
        assert body["error"]["message"]


quickly = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@quickly
@given(mutated(CHAT))
def test_chats(body):
    check("/v1/chat/completions", json.dumps(body).encode())


@quickly
@given(mutated(COMPLETION))
def test_completions(body):
    check("/v1/completions", json.dumps(body).encode())


@quickly
@given(st.one_of(mutated(TOKENIZE), mutated(DETOKENIZE)), st.sampled_from(["/tokenize", "/detokenize"]))
def test_tokenizer(body, path):
    check(path, json.dumps(body).encode())


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"])
@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b"3", b'{"model": "\xff"}', b"\x00", b'{"prompt": ' + b"[" * 5000, b"{}"]
)
def test_what_is_no_body(path, data):
    check(path, data)
