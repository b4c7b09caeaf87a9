"""Whatever is posted wherever, the answer is one of those documented, and the next request is answered as before."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .live import CHAT, live, tiny_backend

ROUTES = (
    "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/messages/count_tokens",
    "/tokenize", "/detokenize", "/v1/batches", "/v1/files",
)  # fmt: skip
FIELDS = (
    "model", "messages", "role", "content", "type", "text", "tools", "function", "name", "parameters", "input_schema",
    "tool_choice", "temperature", "top_p", "top_k", "stop", "max_tokens", "n", "logit_bias", "seed", "prompt", "input",
    "response_format", "json_schema", "schema", "system", "thinking", "metadata", "echo", "logprobs", "tokens",
    "chat_template_kwargs", "tool_calls", "arguments", "id", "input_file_id", "endpoint", "completion_window",
)  # fmt: skip
WORDS = ("tiny", "user", "assistant", "tool", "system", "text", "function", "auto", "required", "object", "json_schema")
HEADS = (b"", b"POST /v1/messages HTTP/1.1\r\n", b"GET / HTTP/1.1\r\n")
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(WORDS)
    | st.sampled_from([2**63, -(2**63), 1e308, "\ud800", "<longcat_user>", "{{ 7 * 7 }}", "\x00"])
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=12,
)
sound = {**CHAT, "max_tokens": 2, "prompt": "x", "input": "x"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with live(tiny_backend(), files=tmp_path_factory.mktemp("files")) as server:
        yield server


@pytest.mark.parametrize("path", ROUTES)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(changes=st.dictionaries(st.sampled_from(FIELDS), values, max_size=4))
def test_bodies(server, path, changes):
    changes.pop("max_tokens", None) if changes.get("max_tokens") is None else None
    body = {**sound, **changes, "n": 1}
    status, _, answer = server.ask("POST", path, json.dumps(body).encode(), content_type="application/json")
    assert status in (200, 400, 404, 413), (status, answer, body)
    if status != 200:
        assert isinstance(answer["error"]["message"], str)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    data=st.binary(max_size=200), head=st.sampled_from((b"", b"POST /v1/messages HTTP/1.1\r\n", b"GET / HTTP/1.1\r\n"))
)
def test_bytes(server, data, head):
    with server.connect() as sock:
        sock.sendall(head + data + b"\r\n\r\n")
    assert server.ask("GET", "/ready")[0] == 200
