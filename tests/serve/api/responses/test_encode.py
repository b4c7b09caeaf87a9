"""Events against the SDK's own types and its accumulator."""

import copy

import pytest
from openai._types import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from homegrown.serve.api.body import decode
from homegrown.serve.api.responses import schema
from homegrown.serve.api.responses.encode import Encoder, frame
from homegrown.serve.api.responses.opening import opening
from homegrown.serve.api.responses.tools import Toolbox
from homegrown.serve.api.seal import Seal
from homegrown.serve.errors import ApiError
from homegrown.serve.events import Begun, CallArguments, CallBegun, CallEnded, Ended, Failed, Reasoning, Text
from homegrown.serve.messages import Sampling, Usage

SEAL = Seal()
EVENT = TypeAdapter(ResponseStreamEvent)
TOOLS = [{"type": "function", "name": "shell", "parameters": {}}, {"type": "custom", "name": "apply_patch"}]
TOOLS += [{"type": "namespace", "name": "docs", "tools": [{"type": "function", "name": "find", "parameters": {}}]}]


def encoder(summary=False, seal=None):
    body = decode(b'{"model": "m", "input": "hi", "metadata": {"k": "v"}}', schema.CreateResponse)
    return Encoder(
        opening(body, "resp_1", 7, Sampling(max_tokens=4)), Toolbox(TOOLS), summary, seal, lambda token: b"x"
    )


def ended(reason="stop", reasoning=0):
    return Ended(0, reason, None, Usage(prompt_tokens=9, completion_tokens=5, cached_tokens=4), reasoning)


def played(*events, fail=None, **options):
    """Wire events, checked: types, sequence numbers, the SDK's accumulator."""
    turning = encoder(**options)
    sent = [wire for event in (Begun(0, 9, 4), *events) for wire in copy.deepcopy(turning.push(event))]
    sent += turning.fail(fail) if fail else []
    assert [wire["sequence_number"] for wire in sent] == list(range(len(sent)))
    assert [wire["type"] for wire in sent[:2]] == ["response.created", "response.in_progress"]
    state = ResponseStreamState(input_tools=omit, text_format=omit)
    for wire in sent:
        state.handle_event(EVENT.validate_python(wire))
    last = sent[-1]["response"]
    Response.model_validate(last)
    assert last["output"] == [wire["item"] for wire in sent if wire["type"] == "response.output_item.done"]
    if last["status"] == "completed":
        assert without_parsed(state._completed_response.to_dict()["output"]) == last["output"]
        assert state.accumulate_event(EVENT.validate_python(sent[-1])).output_text == texts(last)
    return sent, last


def without_parsed(value):
    """What the accumulator adds of its own is left out."""
    if isinstance(value, list):
        return [without_parsed(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {name: without_parsed(item) for name, item in value.items() if not name.startswith("parsed")}


def texts(response):
    return "".join(item["content"][0]["text"] for item in response["output"] if item["type"] == "message")


def kinds(sent):
    return [wire["type"].removeprefix("response.") for wire in sent]


def test_text():
    sent, response = played(Text(0, "a"), Text(0, "b"), ended())
    assert kinds(sent) == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    (message,) = response["output"]
    assert (message["content"][0]["text"], message["status"], response["status"]) == ("ab", "completed", "completed")
    assert response["metadata"] == {"k": "v"}
    assert response["usage"] == {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 14,
    }


def test_reasoning_as_it_is():
    sent, response = played(Reasoning(0, "so"), Text(0, "a"), ended(reasoning=2))
    assert kinds(sent)[2:8] == [
        "output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.done", "content_part.done",
        "output_item.done",
    ]  # fmt: skip
    reasoning, _ = response["output"]
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "so"}]
    assert (reasoning["summary"], "encrypted_content" in reasoning) == ([], False)
    assert response["usage"]["output_tokens_details"]["reasoning_tokens"] == 2


def test_reasoning_as_a_summary():
    sent, response = played(Reasoning(0, "s"), Reasoning(0, "o"), Text(0, "a"), ended(), summary=True, seal=SEAL)
    assert kinds(sent)[2:9] == [
        "output_item.added", "reasoning_summary_part.added", "reasoning_summary_text.delta",
        "reasoning_summary_text.delta", "reasoning_summary_text.done", "reasoning_summary_part.done",
        "output_item.done",
    ]  # fmt: skip
    reasoning, _ = response["output"]
    assert reasoning["summary"] == [{"type": "summary_text", "text": "so"}]
    assert SEAL.open(reasoning["encrypted_content"]) == "so"


def test_calls():
    arguments = '{"input": "*** Begin\\n"}'
    sent, response = played(
        Text(0, "I look."),
        CallBegun(0, 0, "shell"),
        CallArguments(0, '{"command"'),
        CallArguments(0, ': "ls"}'),
        CallEnded(0, 0, "shell", '{"command": "ls"}'),
        CallBegun(0, 1, "apply_patch"),
        CallArguments(0, arguments),
        CallEnded(0, 1, "apply_patch", arguments),
        CallBegun(0, 2, "docs__find"),
        CallEnded(0, 2, "docs__find", "{}"),
        ended("calls"),
    )
    _, shell, patch, find = response["output"]
    assert (shell["type"], shell["name"], shell["arguments"]) == ("function_call", "shell", '{"command": "ls"}')
    assert (patch["type"], patch["name"], patch["input"]) == ("custom_tool_call", "apply_patch", "*** Begin\n")
    assert (find["name"], find["namespace"], find["arguments"]) == ("find", "docs", "{}")
    assert len({shell["call_id"], patch["call_id"], find["call_id"]}) == 3
    assert [wire["output_index"] for wire in sent if wire["type"] == "response.output_item.added"] == [0, 1, 2, 3]
    assert "response.custom_tool_call_input.delta" in [wire["type"] for wire in sent]


def test_cut_off():
    _, response = played(Text(0, "a"), ended("length"))
    assert response["status"] == response["output"][0]["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}


def test_an_answer_without_a_word():
    _, response = played(ended())
    assert response["output"][0]["content"][0]["text"] == ""
    _, response = played(Reasoning(0, "hm"), ended())
    assert [item["type"] for item in response["output"]] == ["reasoning", "message"]


@pytest.mark.parametrize(
    ("kind", "code", "words"),
    [
        ("internal", "server_error", "It broke."),
        ("context_length", "context_length_exceeded", "It broke."),
        ("quota", "insufficient_quota", "It broke."),
        ("rate_limit", "rate_limit_exceeded", "It broke. Please try again in 2s."),
        ("overloaded", "rate_limit_exceeded", "It broke. Please try again in 2s."),
    ],
)
def test_failures(kind, code, words):
    turning = encoder()
    turning.push(Begun(0, 9, 4))
    turning.push(Text(0, "a"))
    with pytest.raises(ApiError) as caught:
        turning.push(Failed(kind, "It broke."))
    caught.value.retry_after = 2
    last = turning.fail(caught.value)[-1]
    assert last["type"] == "response.failed"
    assert last["response"]["error"] == {"code": code, "message": words}
    assert last["response"]["output"][0]["status"] == "incomplete"


def test_a_call_that_fails_half_way():
    turning = encoder()
    for event in (Begun(0, 9, 4), CallBegun(0, 0, "apply_patch"), CallArguments(0, '{"inp')):
        turning.push(event)
    wires = turning.fail(ApiError("internal", "It broke."))
    assert wires[-1]["response"]["output"][0]["input"] == '{"inp'


def test_frames():
    assert frame([{"type": "response.x", "delta": "é\n"}]) == (
        b'event: response.x\ndata: {"type":"response.x","delta":"\xc3\xa9\\n"}\n\n'
    )
