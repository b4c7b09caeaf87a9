"""Events against the SDK's own types, and what its accumulator makes of them against the whole message."""

import msgspec
import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

from homegrown.serve.api.anthropic.encode import Asked, Encoder, frame
from homegrown.serve.api.anthropic.errors import render
from homegrown.serve.api.anthropic.fold import Fold
from homegrown.serve.api.seal import Seal
from homegrown.serve.errors import ApiError
from homegrown.serve.events import Begun, CallArguments, CallBegun, CallEnded, Ended, Failed, Reasoning, Text
from homegrown.serve.messages import Usage

SEAL = Seal()
EVENT = TypeAdapter(RawMessageStreamEvent)


def asked(**changes):
    return Asked(model="m", prompt_tokens=9, request_id="req_1", **changes)


def ended(reason="stop", stop=None, completion=5, thinking=0):
    usage = Usage(prompt_tokens=9, completion_tokens=completion, cached_tokens=4)
    return Ended(0, reason, stop, usage, thinking)


def wires(*events, **changes):
    encoder = Encoder(asked(**changes), SEAL)
    return [wire for event in (Begun(0, 9, 4), *events) for wire in encoder.push(event)]


def message(sent):
    """The folded message, after checking it against the SDK's accumulator and types."""
    fold = Fold()
    fold.add(sent)
    whole = msgspec.json.decode(msgspec.json.encode(fold.message))
    snapshot, buffers = None, {}
    for wire in sent:
        if wire["type"] != "ping":
            event = EVENT.validate_python(wire)
            snapshot = accumulate_event(event=event, current_snapshot=snapshot, json_bufs=buffers)
    checked = Message.model_validate(whole)
    assert snapshot.model_dump(exclude_none=True) == checked.model_dump(exclude_none=True)
    return whole


ROUND = (
    Reasoning(0, "let "),
    Reasoning(0, "me"),
    Text(0, "I "),
    Text(0, "read."),
    CallBegun(0, 0, "read"),
    CallArguments(0, '{"path": '),
    CallArguments(0, '"a"}'),
    CallEnded(0, 0, "read", '{"path": "a"}'),
    CallBegun(0, 1, "list"),
    CallArguments(0, "{}"),
    CallEnded(0, 1, "list", "{}"),
    ended("calls", thinking=2),
)


def test_a_whole_round():
    sent = wires(*ROUND)
    assert [wire["type"] for wire in sent[:3]] == ["message_start", "ping", "content_block_start"]
    assert [wire["type"] for wire in sent[-2:]] == ["message_delta", "message_stop"]
    thinking, text, read, list_ = message(sent)["content"]
    assert thinking["thinking"] == "let me"
    assert SEAL.verify("let me", thinking["signature"])
    assert text == {"type": "text", "text": "I read."}
    assert (read["name"], read["input"]) == ("read", {"path": "a"})
    assert (list_["name"], list_["input"]) == ("list", {})
    assert read["id"] != list_["id"] and read["id"].startswith("toolu_")


def test_blocks_follow_one_another():
    open_index, seen = None, -1
    for wire in wires(*ROUND):
        if wire["type"] == "content_block_start":
            assert open_index is None
            assert wire["index"] == seen + 1
            open_index = seen = wire["index"]
        elif wire["type"] == "content_block_delta":
            assert wire["index"] == open_index
        elif wire["type"] == "content_block_stop":
            assert wire["index"] == open_index
            open_index = None
    assert open_index is None


def test_usage():
    usage = message(wires(*ROUND))["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"], usage["output_tokens"]) == (5, 4, 5)
    assert usage["output_tokens_details"] == {"thinking_tokens": 2}


@pytest.mark.parametrize(
    ("end", "reason", "stop"),
    [
        (ended(), "end_turn", None),
        (ended("stop", "\n\n"), "stop_sequence", "\n\n"),
        (ended("length"), "max_tokens", None),
        (ended("calls"), "tool_use", None),
    ],
)
def test_why_it_ends(end, reason, stop):
    whole = message(wires(Text(0, "a"), end))
    assert (whole["stop_reason"], whole["stop_sequence"]) == (reason, stop)


def test_the_context_ends():
    whole = message(wires(Text(0, "a"), ended("length"), narrow=True))
    assert whole["stop_reason"] == "model_context_window_exceeded"


def test_thinking_that_is_not_shown_is_sealed():
    thinking, _ = message(wires(*ROUND[:4], ended(), show_thinking=False))["content"]
    assert thinking["thinking"] == ""
    assert SEAL.open(thinking["signature"]) == "let me"


def test_an_answer_without_a_word():
    assert message(wires(ended()))["content"] == [{"type": "text", "text": ""}]
    thinking, text = message(wires(Reasoning(0, "hm"), ended("length")))["content"]
    assert (thinking["thinking"], text["text"]) == ("hm", "")


def test_only_the_prompt():
    whole = message(wires(Text(0, "x"), ended("length", completion=1), silent=True))
    assert (whole["content"], whole["stop_reason"], whole["usage"]["output_tokens"]) == ([], "max_tokens", 0)


def test_a_failure_closes_what_is_open():
    encoder = Encoder(asked(), SEAL)
    for event in (Begun(0, 9, 4), Reasoning(0, "so")):
        encoder.push(event)
    with pytest.raises(ApiError) as caught:
        encoder.push(Failed("overloaded", "Full."))
    signature, stop, error = encoder.fail(caught.value)
    assert signature["delta"]["type"] == "signature_delta"
    assert stop == {"type": "content_block_stop", "index": 0}
    expected = {"type": "error", "error": {"type": "overloaded_error", "message": "Full."}, "request_id": "req_1"}
    assert error == expected
    assert frame([error]).startswith(b'event: error\ndata: {"type":"error",')


@pytest.mark.parametrize(
    ("kind", "status", "name", "again"),
    [
        ("invalid", 400, "invalid_request_error", "false"),
        ("context_length", 400, "invalid_request_error", "false"),
        ("authentication", 401, "authentication_error", "false"),
        ("permission", 403, "permission_error", "false"),
        ("not_found", 404, "not_found_error", "false"),
        ("too_large", 413, "request_too_large", "false"),
        ("rate_limit", 429, "rate_limit_error", "true"),
        ("internal", 500, "api_error", "true"),
        ("overloaded", 529, "overloaded_error", "true"),
        ("unavailable", 529, "overloaded_error", "true"),
    ],
)
def test_errors(kind, status, name, again):
    code, body, headers = render(ApiError(kind, "Why.", retry_after=1.2), "req_1")
    assert (code, body["error"], headers["x-should-retry"]) == (status, {"type": name, "message": "Why."}, again)
    assert (headers["request-id"], headers["retry-after"], body["request_id"]) == ("req_1", "2", "req_1")
