"""The whole surface through the real application: whatever comes, in whatever order, the answer is a documented one in
the words of its route, and afterwards the server is as it was."""

import http.client
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from homegrown.serve.card import ModelCard
from homegrown.serve.engine.engine import Engine
from homegrown.serve.engine.options import EngineOptions
from homegrown.serve.http.app import build_app
from homegrown.serve.http.clients import Client, Keys, digest
from homegrown.serve.http.metered import MeteredBackend
from homegrown.serve.http.options import Options
from homegrown.serve.service import Service
from homegrown.serve.worker.thread import ThreadBackend

from ..api.openai.test_fuzz import mutated
from ..http.live import serving, until
from ..tiny import tiny_config, tiny_model, tiny_tokenizer
from .coder import TOOLS

KEY = "hg-the-key-of-this-test"
PARAMETERS = TOOLS["edit_file"]
CALLED = {"path": "a.py", "old": "x", "new": "y"}
CHAT = {
    "model": "tiny", "max_tokens": 4, "temperature": 0.5, "top_p": 0.9, "seed": 3, "n": 1, "stop": ["zz"],
    "stream": False, "stream_options": {"include_usage": True}, "parallel_tool_calls": True, "tool_choice": "auto",
    "logprobs": False, "response_format": {"type": "text"}, "reasoning_effort": "low", "metadata": {"a": "b"},
    "tools": [{"type": "function", "function": {"name": "edit_file", "parameters": PARAMETERS, "strict": True}}],
    "messages": [
        {"role": "developer", "content": "You program."},
        {"role": "user", "content": [{"type": "text", "text": "Change a.py"}]},
        {"role": "assistant", "content": None, "reasoning_content": "So.", "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "edit_file", "arguments": json.dumps(CALLED)}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "done"},
    ],
}  # fmt: skip
MESSAGES = {
    "model": "tiny", "max_tokens": 4, "stream": False, "temperature": 0.5, "top_k": 5, "stop_sequences": ["zz"],
    "system": [{"type": "text", "text": "You program.", "cache_control": {"type": "ephemeral"}}],
    "thinking": {"type": "enabled", "budget_tokens": 1024}, "tool_choice": {"type": "auto"},
    "metadata": {"user_id": "u"},
    "tools": [{"name": "edit_file", "description": "d", "input_schema": PARAMETERS},
              {"type": "bash_20250124", "name": "bash"}],
    "messages": [
        {"role": "user", "content": "Change a.py"},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "So.", "signature": "s"},
            {"type": "tool_use", "id": "t1", "name": "edit_file", "input": CALLED}]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t1", "is_error": False,
             "content": [{"type": "text", "text": "done"}]},
            {"type": "text", "text": "And now?"}]},
        {"role": "system", "content": "Be short."},
    ],
}  # fmt: skip
RESPONSES = {
    "model": "tiny", "max_output_tokens": 4, "stream": False, "instructions": "You program.", "store": False,
    "reasoning": {"effort": "low", "summary": "auto"}, "tool_choice": "auto", "text": {"format": {"type": "text"}},
    "include": ["reasoning.encrypted_content"], "prompt_cache_key": "k", "parallel_tool_calls": False,
    "tools": [{"type": "function", "name": "edit_file", "parameters": PARAMETERS, "strict": False},
              {"type": "custom", "name": "apply_patch"}, {"type": "web_search"}],
    "input": [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Change a.py"}]},
        {"type": "reasoning", "id": "r1", "summary": [], "encrypted_content": "e"},
        {"type": "function_call", "call_id": "c1", "name": "edit_file", "arguments": json.dumps(CALLED)},
        {"type": "function_call_output", "call_id": "c1", "output": "done"},
        {"type": "custom_tool_call", "call_id": "c2", "name": "apply_patch", "input": "p"},
        {"type": "custom_tool_call_output", "call_id": "c2", "output": "done"},
    ],
}  # fmt: skip
COMPLETION = {
    "model": "tiny", "prompt": ["print", "x"], "max_tokens": 2, "echo": True, "logprobs": 1, "n": 1, "best_of": 1,
    "stop": "zz", "stream": False, "logit_bias": {"5": -1}, "suffix": None, "seed": 1,
}  # fmt: skip
BODIES = {
    "/v1/chat/completions": CHAT,
    "/v1/messages": MESSAGES,
    "/v1/messages?beta=true": MESSAGES,
    "/v1/messages/count_tokens": MESSAGES,
    "/v1/responses": RESPONSES,
    "/v1/completions": COMPLETION,
    "/tokenize": {"model": "tiny", "messages": CHAT["messages"], "add_special_tokens": True},
    "/detokenize": {"model": "tiny", "tokens": [5, 90]},
    "/v1/batches": {"input_file_id": "file-1", "endpoint": "/v1/chat/completions", "completion_window": "24h"},
}
PATHS = (
    *BODIES, "/", "/page/", "/page/../app.py", "/page/%2e%2e/app.py", "/health", "/ready", "/metrics", "/v1/load",
    "/v1/usage", "/v1/models", "/v1/models/tiny", "/v1/models/a/b", "/v1/models/%00", "/v1/responses/resp_1",
    "/v1/responses/x/cancel", "/tokenizer_info", "/v1/files", "/v1/files/file-1", "/v1/files/file-1/content",
    "/v1/files/..%2f..", "/v1/batches/b", "/v1/batches/b/cancel", "/nope", "/v1/messages/nope", "//", "/%ff",
)  # fmt: skip
DOCUMENTED = {200, 206, 304, 307, 400, 401, 403, 404, 405, 408, 409, 413, 416, 429, 431}
"""No server error among them: nothing here overloads the server or breaks its engine."""

printable = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=20)
NAMES = (
    "authorization", "x-api-key", "x-request-id", "anthropic-version", "anthropic-beta", "content-type", "accept",
    "content-encoding", "expect", "origin", "host", "range", "if-none-match", "cookie", "x-session-id", "connection",
    "x-claude-code-session-id", "openai-organization", "traceparent", "transfer-encoding", "upgrade",
)  # fmt: skip
VALUES = (
    KEY, f"Bearer {KEY}", "Bearer ", "Bearer x", "application/json", "text/plain", "gzip", "bytes=0-1", "null", "*",
    "multipart/form-data; boundary=x", "http://evil.example", "http://[", "100-continue", "close", "websocket", "h2c",
)  # fmt: skip
headers = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(VALUES) | printable, max_size=3)
often = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


class Surface:
    """A server, and what is asked of it."""

    def __init__(self, live, engine):
        self.live, self.engine = live, engine
        self.usual = self.answer()

    def answer(self):
        """What a plain request gets."""
        body = {"model": "tiny", "messages": [{"role": "user", "content": "print"}], "max_tokens": 8, "temperature": 0}
        status, _, answer = self.live.ask("POST", "/v1/chat/completions", body, x_api_key=KEY)
        assert status == 200
        return answer["choices"][0]["message"]

    def ask(self, method, path, data, given):
        """Status, headers and body. A header that the client library refuses is not sent."""
        connection = http.client.HTTPConnection("127.0.0.1", self.live.port, timeout=30)
        sent = {"x-api-key": KEY, **given}
        if sent.get("transfer-encoding") or "expect" in sent:
            data = None
        connection.request(method, path, data, {name: value.encode("latin-1") for name, value in sent.items()})
        response = connection.getresponse()
        found = response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
        connection.close()
        return found

    def as_it_was(self):
        """Nothing runs, no page is lost, and the usual question has its usual answer."""
        until(lambda: self.live.front.admission.running == 0 and self.engine.idle)
        assert self.live.front.backend.state == "ready"
        assert self.answer() == self.usual
        until(lambda: self.engine.idle)
        self.engine.check()


@pytest.fixture(scope="module")
def surface(tmp_path_factory):
    card = ModelCard(id="tiny", context_length=2048, max_output=8, aliases=("anthropic/tiny",))
    engine = Engine(tiny_model(), EngineOptions(pages=512, page_size=16), tiny_tokenizer())
    service = Service(MeteredBackend(ThreadBackend(engine)), tiny_tokenizer(), tiny_config(), card)
    state = tmp_path_factory.mktemp("state")
    options = Options(model="tiny", log="off", files=state, usage=state / "usage.db", max_body=200_000)
    keys = Keys({digest(KEY): Client(name="test", tenant="test", admin=True)})
    with serving(build_app(service, options, keys)) as live:
        surface = Surface(live, engine)
        yield surface
        surface.as_it_was()


def check(path, status, headers, body):
    """The answer is one of those documented, in the words of its route."""
    assert status in DOCUMENTED, (status, body)
    if "x-request-id" not in headers:  # what came was no request, so there is no route whose words could be used
        assert status in (400, 408, 431)
        assert json.loads(body)["error"]["message"]
        return
    kind = headers.get("content-type", "")
    if kind.startswith("text/event-stream"):
        check_stream(path, body.decode())
    elif status >= 400 and body:
        check_error(path, json.loads(body))


def check_error(path, answer):
    if path.startswith("/v1/messages"):
        assert answer["type"] == "error"
        assert set(answer["error"]) == {"type", "message"}
        assert answer["request_id"]
    else:
        assert set(answer) == {"error"}
        assert set(answer["error"]) == {"message", "type", "param", "code"}
        assert answer["error"]["param"] is None or isinstance(answer["error"]["param"], str)
    assert isinstance(answer["error"]["message"], str)
    assert answer["error"]["message"]


def check_stream(path, text):
    """It has an end, as its API has ends."""
    data = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    if path.startswith("/v1/messages"):
        assert json.loads(data[-1])["type"] in ("message_stop", "error")
    elif path == "/v1/responses":
        assert json.loads(data[-1])["type"] in ("response.completed", "response.incomplete", "response.failed")
    elif data[-1] != "[DONE]":
        check_error(path, json.loads(data[-1]))
    for line in data:
        assert line == "[DONE]" or isinstance(json.loads(line), dict)


@pytest.mark.parametrize("path", [path for path in BODIES if path != "/v1/batches"])
def test_what_is_sound(surface, path):
    """What is changed below is something that works."""
    assert surface.ask("POST", path, json.dumps(BODIES[path]).encode(), {})[0] == 200


@pytest.mark.parametrize("path", BODIES)
@often
@given(drawn=st.data())
def test_bodies(surface, path, drawn):
    body = drawn.draw(mutated({**BODIES[path], "stream": drawn.draw(st.booleans())}))
    data = json.dumps(body).encode()
    check(path, *surface.ask("POST", path, data, {"content-type": "application/json"}))


@often
@given(
    method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW"]),
    path=st.sampled_from(PATHS),
    data=st.none() | st.binary(max_size=60) | st.sampled_from([json.dumps(body).encode() for body in BODIES.values()]),
    given_headers=headers,
)
def test_requests(surface, method, path, data, given_headers):
    try:
        answer = surface.ask(method, path, data, given_headers)
    except (ValueError, http.client.HTTPException, OSError):  # no request, or none that has an answer
        return
    check(path, *answer)


def test_afterwards(surface):
    surface.as_it_was()
