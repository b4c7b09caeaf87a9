"""Chats through the official SDK and a real server: whole answers and streams."""

import asyncio
import json
import time

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from ...scripted import ScriptedBackend
from ...tiny import tiny_tokenizer
from .serving import asking, build, client, says, tokens

ANSWER = "I think\n</longcat_think>\nHello é!"
CALL = (
    "hm\n</longcat_think>\nLooking.\n"
    "<longcat_tool_call>read\n<longcat_arg_key>path</longcat_arg_key>\n<longcat_arg_value>a.py</longcat_arg_value>\n"
    "<longcat_arg_key>lines</longcat_arg_key>\n<longcat_arg_value>[1, 2]</longcat_arg_value>\n</longcat_tool_call>\n"
    "<longcat_tool_call>now\n</longcat_tool_call>\n"
)
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "read",
            "description": "Reads a file.",
            "parameters": {"type": "object", "properties": {"path": {"type": "string"}, "lines": {"type": "array"}}},
        },
    },
    {"type": "function", "function": {"name": "now"}},
]
USER = [{"role": "user", "content": "hi"}]


def stream_of(sdk, **fields):
    fields = {"model": "tiny", "messages": USER, **fields}
    return list(sdk.chat.completions.create(stream=True, **fields))


def test_whole_answer():
    with client(build(says(ANSWER, cached=3))) as sdk:
        raw = sdk.chat.completions.with_raw_response.create(model="tiny", messages=USER)
    answer = raw.parse()
    (choice,) = answer.choices
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "stop", None)
    assert (choice.message.role, choice.message.content) == ("assistant", "Hello é!")
    assert choice.message.reasoning_content == "I think"
    assert choice.message.tool_calls is None
    assert choice.message.refusal is None
    assert answer.id.startswith("chatcmpl-")
    assert (answer.object, answer.model) == ("chat.completion", "tiny")
    assert abs(answer.created - time.time()) < 60
    assert answer.system_fingerprint.startswith("fp_")
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details.cached_tokens == 3
    assert 0 < usage.completion_tokens_details.reasoning_tokens < usage.completion_tokens
    assert int(raw.headers["openai-processing-ms"]) >= 0


def test_chunks_in_order():
    with client(build(says(ANSWER))) as sdk:
        chunks = stream_of(sdk, stream_options={"include_usage": True})
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({(chunk.id, chunk.created, chunk.model, chunk.system_fingerprint) for chunk in chunks}) == 1
    first, *middle, last, usage = chunks
    assert first.choices[0].delta.to_dict() == {"role": "assistant", "content": ""}
    assert first.choices[0].finish_reason is None
    kinds = [next(iter(chunk.choices[0].delta.to_dict())) for chunk in middle]
    assert kinds == sorted(kinds, reverse=True)
    assert set(kinds) == {"reasoning_content", "content"}
    assert "".join(chunk.choices[0].delta.content or "" for chunk in middle) == "Hello é!"
    assert "".join(getattr(chunk.choices[0].delta, "reasoning_content", "") for chunk in middle) == "I think"
    assert last.choices[0].delta.to_dict() == {}
    assert last.choices[0].finish_reason == "stop"
    assert usage.choices == []
    assert usage.usage.completion_tokens > 0
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_the_wire():
    with client(build(says(ANSWER))) as sdk:
        response = httpx.post(f"{sdk.base_url}chat/completions", json={"messages": USER, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    events = response.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert all("usage" not in chunk for chunk in chunks)
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in chunks[:-1])


def test_calls():
    with client(build(says(CALL))) as sdk:
        answer = sdk.chat.completions.create(model="tiny", messages=USER, tools=TOOLS)
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Looking."
    read, now = choice.message.tool_calls
    assert (read.type, read.function.name) == ("function", "read")
    assert json.loads(read.function.arguments) == {"path": "a.py", "lines": [1, 2]}
    assert (now.function.name, now.function.arguments) == ("now", "{}")
    assert read.id.startswith("call_")
    assert read.id != now.id


@pytest.mark.parametrize("at_a_time", [1, 7, 1000])
def test_calls_in_a_stream(at_a_time):
    with client(build(says(CALL, at_a_time=at_a_time))) as sdk:
        chunks = stream_of(sdk, tools=TOOLS)
    deltas = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    heads = [delta for delta in deltas if delta.id]
    assert [(head.index, head.type, head.function.name, head.function.arguments) for head in heads] == [
        (0, "function", "read", ""),
        (1, "function", "now", ""),
    ]
    assert [delta.index for delta in deltas] == sorted(delta.index for delta in deltas)
    assert all(delta.function.name is None and delta.type is None for delta in deltas if not delta.id)
    arguments = ["".join(delta.function.arguments for delta in deltas if delta.index == index) for index in (0, 1)]
    assert [json.loads(text) for text in arguments] == [{"path": "a.py", "lines": [1, 2]}, {}]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_the_sdks_own_accumulator_takes_the_stream():
    with client(build(says(CALL))) as sdk, sdk.chat.completions.stream(model="tiny", messages=USER, tools=TOOLS) as run:
        for _ in run:
            pass
        final = run.get_final_completion()
    assert [call.function.name for call in final.choices[0].message.tool_calls] == ["read", "now"]


def test_functions_of_old():
    functions = [tool["function"] for tool in TOOLS]
    with client(build(says(CALL))) as sdk:
        answer = sdk.chat.completions.create(model="tiny", messages=USER, functions=functions)
        chunks = stream_of(sdk, functions=functions, function_call="auto")
    (choice,) = answer.choices
    assert choice.finish_reason == "function_call"
    assert choice.message.function_call.name == "read"
    assert json.loads(choice.message.function_call.arguments)["path"] == "a.py"
    assert choice.message.tool_calls is None
    deltas = [chunk.choices[0].delta.function_call for chunk in chunks if chunk.choices[0].delta.function_call]
    assert [delta.name for delta in deltas if delta.name] == ["read"]
    assert json.loads("".join(delta.arguments for delta in deltas))["path"] == "a.py"
    assert chunks[-1].choices[0].finish_reason == "function_call"


def test_several_answers():
    with client(build(says("a\n</longcat_think>\none", "b\n</longcat_think>\ntwo!"))) as sdk:
        answer = sdk.chat.completions.create(model="tiny", messages=USER, n=2)
        chunks = stream_of(sdk, n=2, stream_options={"include_usage": True})
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert {choice.message.content for choice in answer.choices} == {"one", "two!"}
    assert answer.usage.prompt_tokens == chunks[-1].usage.prompt_tokens
    assert sorted(c.choices[0].index for c in chunks if c.choices and c.choices[0].finish_reason) == [0, 1]


def test_most_tokens():
    with client(build(says(ANSWER))) as sdk:
        for field in ("max_tokens", "max_completion_tokens"):
            answer = sdk.chat.completions.create(model="tiny", messages=USER, **{field: 3})
            assert answer.choices[0].finish_reason == "length"
            assert answer.usage.completion_tokens == 3
        assert stream_of(sdk, max_tokens=2)[-1].choices[0].finish_reason == "length"


def test_log_probabilities():
    with client(build(says(ANSWER))) as sdk:
        answer = sdk.chat.completions.create(model="tiny", messages=USER, logprobs=True, top_logprobs=1)
        chunks = stream_of(sdk, logprobs=True, top_logprobs=1)
    whole = answer.choices[0].logprobs.content
    assert bytes(byte for token in whole for byte in token.bytes).decode() == "Hello é!"
    assert all(token.logprob == -0.5 and token.top_logprobs[0].token == token.token for token in whole)
    parts = [chunk.choices[0].logprobs for chunk in chunks]
    for chunk, part in zip(chunks[1:], parts[1:], strict=True):
        data = bytes(byte for token in part.content for byte in token.bytes) if part else b""
        assert data.decode() == (chunk.choices[0].delta.content or "")
    assert [token for part in parts if part for token in part.content] == whole


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({}, {"reasoning_content"}),
        ({"reasoning": {"effort": "high"}}, {"reasoning_content", "reasoning"}),
        ({"include_reasoning": True}, {"reasoning_content", "reasoning"}),
        ({"include_reasoning": False}, set()),
        ({"reasoning": {"exclude": True}}, set()),
    ],
)
def test_where_thinking_is_shown(fields, names):
    with client(build(says(ANSWER))) as sdk:
        answer = sdk.chat.completions.create(model="tiny", messages=USER, extra_body=fields)
        chunks = stream_of(sdk, extra_body=fields)
    message = answer.choices[0].message.to_dict()
    assert {name for name in message if "reasoning" in name} == names
    for name in names:
        assert message[name] == "I think"
        assert "".join(chunk.choices[0].delta.to_dict().get(name, "") for chunk in chunks) == "I think"
    assert {key for chunk in chunks for key in chunk.choices[0].delta.to_dict() if "reasoning" in key} == names


def test_the_servers_name_for_thinking():
    with client(build(says(ANSWER), reasoning="reasoning")) as sdk:
        answer = sdk.chat.completions.create(model="tiny", messages=USER)
    assert answer.choices[0].message.reasoning == "I think"
    assert not hasattr(answer.choices[0].message, "reasoning_content")


def test_failure_before_the_first_token_has_a_status():
    with client(build(says("", end=False, error="the engine broke"))) as sdk:
        for stream in (False, True):
            with pytest.raises(openai.APIStatusError) as caught:
                sdk.chat.completions.create(model="tiny", messages=USER, stream=stream)
            assert caught.value.status_code >= 500


def test_failure_within_a_stream_is_an_error_event():
    with client(build(says(ANSWER, error="the engine broke"))) as sdk:
        with pytest.raises(openai.APIError) as caught:
            stream_of(sdk)
        text = httpx.post(f"{sdk.base_url}chat/completions", json={"messages": USER, "stream": True}).text
    assert "broke" in caught.value.message
    error = json.loads(text.split("\n\n")[-2].removeprefix("data: "))["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "[DONE]" not in text


def test_a_client_that_leaves_frees_the_engine():
    backend = says(ANSWER * 50, pause=0.01)
    with client(build(backend)) as sdk:
        with sdk.chat.completions.create(model="tiny", messages=USER, stream=True) as run:
            next(iter(run))
        deadline = time.time() + 5
        while not backend.aborted and time.time() < deadline:
            time.sleep(0.01)
    assert backend.aborted == [backend.requests[0].id]


def test_compute_is_shown_on_demand():
    class Counting(ScriptedBackend):
        async def submit(self, request):
            async for output in super().submit(request):
                output.compute = [2.5] * len(output.tokens)
                yield output

    with client(build(Counting([*tokens(ANSWER), tiny_tokenizer().eos_id], at_a_time=3))) as sdk:
        answer = sdk.chat.completions.create(model="tiny", messages=USER, extra_body={"compute": True})
        chunks = stream_of(sdk, extra_body={"compute": True})
        plain = sdk.chat.completions.create(model="tiny", messages=USER)
    shown = [pair for chunk in chunks for pair in getattr(chunk.choices[0], "compute", [])]
    assert shown == answer.choices[0].compute
    assert "".join(text for text, _ in shown) == "Hello é!"
    assert {experts for _, experts in shown} == {2.5}
    assert not hasattr(plain.choices[0], "compute")


def test_the_asynchronous_sdk():
    app = build(says(ANSWER))

    async def run():
        async with AsyncOpenAI(base_url="http://test/v1", api_key="x", http_client=asking(app)) as sdk:
            whole = await sdk.chat.completions.create(model="anthropic/tiny", messages=USER)
            stream = await sdk.chat.completions.create(model="tiny", messages=USER, stream=True)
            return whole, [chunk async for chunk in stream]

    whole, chunks = asyncio.run(run())
    assert whole.model == "anthropic/tiny"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
