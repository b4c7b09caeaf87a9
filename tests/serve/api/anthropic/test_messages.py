"""The Messages API through Anthropic's own SDK, over a real server."""

import asyncio
import json

import anthropic
import pytest
from anthropic import AsyncAnthropic

from ...running import running
from ...scripted import ScriptedBackend
from ...tiny import tiny_tokenizer
from ..dialects import CARD, asking, build, messages_client
from ..openai.serving import says, tokens

USER = [{"role": "user", "content": "hi"}]
ON = {"type": "enabled", "budget_tokens": 1024}
TOOLS = [
    {
        "name": "read",
        "description": "Reads a file.",
        "input_schema": {"type": "object", "properties": {"path": {"type": "string"}, "lines": {"type": "array"}}},
    },
    {"name": "now", "input_schema": {"type": "object", "properties": {}}},
    {"type": "web_search_20250305", "name": "web_search"},
]
CALLS = (
    "hm\n</longcat_think>\nLooking.\n"
    "<longcat_tool_call>read\n<longcat_arg_key>path</longcat_arg_key>\n<longcat_arg_value>a.py</longcat_arg_value>\n"
    "<longcat_arg_key>lines</longcat_arg_key>\n<longcat_arg_value>[1, 2]</longcat_arg_value>\n</longcat_tool_call>\n"
    "<longcat_tool_call>now\n</longcat_tool_call>\n"
)


def create(sdk, **fields):
    return sdk.messages.create(**{"model": "tiny", "max_tokens": 200, "messages": USER, **fields})


def test_whole_message():
    with messages_client(build(says("Hello é!", cached=3))) as sdk:
        message = create(sdk, system="Be.", metadata={"user_id": "u"})
        raw = sdk.messages.with_raw_response.create(model="tiny", max_tokens=9, messages=USER)
    assert message.id.startswith("msg_")
    assert (message.role, message.model, message.stop_reason, message.stop_sequence) == (
        "assistant", "tiny", "end_turn", None,
    )  # fmt: skip
    assert [block.to_dict() for block in message.content] == [{"type": "text", "text": "Hello é!"}]
    assert message.usage.cache_read_input_tokens == 3
    assert message.usage.output_tokens == len(tokens("Hello é!")) + 1
    assert raw.headers["request-id"].startswith("req_")
    assert message._request_id.startswith("req_")


@pytest.mark.parametrize("at_a_time", [1, 7, 1000])
def test_stream_accumulates_to_the_same(at_a_time):
    backend = says(CALLS, at_a_time=at_a_time)
    with messages_client(build(backend)) as sdk:
        whole = create(sdk, tools=TOOLS, thinking=ON)
        with sdk.messages.stream(model="tiny", max_tokens=200, messages=USER, tools=TOOLS, thinking=ON) as stream:
            text = "".join(stream.text_stream)
            streamed = stream.get_final_message()
    assert text == "Looking."
    thinking, said, read, now = streamed.content
    assert (thinking.thinking, said.text, streamed.stop_reason) == ("hm", "Looking.", "tool_use")
    assert (read.name, read.input) == ("read", {"path": "a.py", "lines": [1, 2]})
    assert (now.name, now.input) == ("now", {})
    assert read.id.startswith("toolu_")
    assert [comparable(block) for block in whole.content] == [comparable(block) for block in streamed.content]
    assert whole.usage == streamed.usage
    assert streamed.usage.output_tokens_details.thinking_tokens > 0
    assert streamed.usage.input_tokens == len(backend.requests[0].prompt)


def comparable(block):
    return {name: value for name, value in block.to_dict().items() if name != "id"}


def test_asynchronous_client():
    async def run(address):
        async with AsyncAnthropic(base_url=address, api_key="x", max_retries=0) as sdk:
            message = await sdk.messages.create(model="tiny", max_tokens=50, messages=USER)
            async with sdk.messages.stream(model="tiny", max_tokens=50, messages=USER) as stream:
                pieces = [text async for text in stream.text_stream]
            beta = await sdk.beta.messages.create(
                model="tiny", max_tokens=50, messages=USER, betas=["context-1m-2025-08-07"]
            )
        return message.content[0].text, "".join(pieces), beta.content[0].text

    with running(build(says("Hello."))) as address:
        assert asyncio.run(run(address)) == ("Hello.",) * 3


def test_prompts_are_those_of_the_template():
    backend = says("x")
    with messages_client(build(backend)) as sdk:
        create(sdk, system=[{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])
        create(sdk, thinking={"type": "adaptive"})
    expected = [{"role": "system", "content": "a\n\nb"}, {"role": "user", "content": "hi"}]
    tokenizer = tiny_tokenizer()
    off, on = (tokenizer.decode(request.prompt) for request in backend.requests)
    assert off == tokenizer.render_chat(expected, enable_thinking=False)
    assert on == tokenizer.render_chat(expected[1:], enable_thinking=True)


def prompts(*bodies):
    """The prompt tokens that requests lead to, and what `count_tokens` says of each."""
    backend = says("x")

    async def run():
        async with asking(build(backend)) as http:
            counted = []
            for body in bodies:
                given = {"model": "tiny", "messages": USER, **body}
                made = await http.post("/v1/messages?beta=true", json={"max_tokens": 9, **given})
                assert made.status_code == 200, made.text
                counted.append((await http.post("/v1/messages/count_tokens?beta=true", json=given)).json())
            return counted

    counted = asyncio.run(run())
    made = [request.prompt for request in backend.requests]
    assert [count["input_tokens"] for count in counted] == [len(prompt) for prompt in made]
    return made


def billed(number):
    header = f"x-anthropic-billing-header: cc_version=2.1.{number}; cc_entrypoint=cli; cch=a{number}b;"
    return [{"type": "text", "text": header}, {"type": "text", "text": "You are an agent."}]


def test_billing_text_does_not_change_the_prompt():
    first, second, plain = prompts({"system": billed(1)}, {"system": billed(2)}, {"system": "You are an agent."})
    assert first == second == plain


def test_cache_control_does_not_change_the_prompt():
    marked = {"type": "ephemeral"}
    content = [{"type": "text", "text": "hi", "cache_control": marked}]
    tool = {**TOOLS[0], "cache_control": marked}
    plain, rolled = prompts({"tools": TOOLS[:1]}, {"tools": [tool], "messages": [{"role": "user", "content": content}]})
    assert plain == rolled


def test_a_reminder_leaves_the_prefix_as_it_is():
    system, more = {"role": "system", "content": "Remember."}, {"role": "user", "content": "more"}
    answer = {"role": "assistant", "content": "Hello."}
    without, with_reminder = prompts({"messages": [*USER, answer, more]}, {"messages": [*USER, answer, more, system]})
    closed = len(without) - len(tiny_tokenizer().encode("<longcat_assistant><longcat_think>\n\n</longcat_think>\n"))
    assert with_reminder[:closed] == without[:closed]


def test_history_continues_the_prompt_it_came_from():
    """What the model wrote comes back as the same tokens, so that a prefix cache holds all of it."""
    backend = says(CALLS)
    with messages_client(build(backend)) as sdk:
        message = create(sdk, tools=TOOLS, thinking=ON)
        results = [
            {"type": "tool_result", "tool_use_id": block.id, "content": "x"}
            for block in message.content
            if block.type == "tool_use"
        ]
        turn = {"role": "assistant", "content": [block.to_dict() for block in message.content]}
        create(sdk, tools=TOOLS, thinking=ON, messages=[*USER, turn, {"role": "user", "content": results}])
    first, second = (request.prompt for request in backend.requests)
    whole = [*first, *tokens(CALLS), tiny_tokenizer().eos_id]
    assert second[: len(whole)] == whole


def test_stop_sequence():
    with messages_client(build(says("one two three"))) as sdk:
        message = create(sdk, stop_sequences=["nope", " two"])
    assert (message.content[0].text, message.stop_reason, message.stop_sequence) == ("one", "stop_sequence", " two")


def test_limits():
    with messages_client(build(says("one two three"))) as sdk:
        assert create(sdk, max_tokens=2).stop_reason == "max_tokens"
        nothing = create(sdk, max_tokens=0)
        assert (nothing.content, nothing.stop_reason, nothing.usage.output_tokens) == ([], "max_tokens", 0)
    many = says("a b " * 2000)
    with messages_client(build(many, card=CARD.__class__(id="tiny", context_length=64, max_output=512))) as sdk:
        assert create(sdk, max_tokens=500).stop_reason == "model_context_window_exceeded"
        with pytest.raises(anthropic.BadRequestError) as caught:
            create(sdk, messages=[{"role": "user", "content": "word " * 90}])
    count = len(tokens("word " * 90))
    message = caught.value.body["error"]["message"]
    assert message.startswith("prompt is too long: ")
    assert message.endswith(" tokens > 63 maximum")
    assert int(message.split()[4]) > count


def test_a_prompt_too_long_to_be_counted():
    with messages_client(build(says("x"))) as sdk, pytest.raises(anthropic.BadRequestError) as caught:
        create(sdk, messages=[{"role": "user", "content": "word " * 100_000}])
    assert caught.value.body["error"]["message"].startswith("prompt is too long: ")


def test_structured_output_and_forced_tools_reach_the_service():
    backend = says("{}")
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    with messages_client(build(backend)) as sdk:
        create(sdk, output_config={"format": {"type": "json_schema", "schema": schema}})
        create(sdk, tools=TOOLS, tool_choice={"type": "tool", "name": "now"})
    assert all(request.sampling.grammar for request in backend.requests)


def test_settings_reach_the_engine():
    backend = says("x")

    async def run():
        body = {"model": "tiny", "max_tokens": 9, "messages": USER, "temperature": 0.5, "top_k": 4, "top_p": 0.9}
        async with asking(build(backend)) as http:
            await http.post("/v1/messages", json={**body, "seed": 7}, headers={"x-tenant": "ours"})

    asyncio.run(run())
    (request,) = backend.requests
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.seed) == (0.5, 4, 0.9, 7)
    assert (sampling.max_tokens, request.tenant, request.priority) == (9, "ours", 3)


ERRORS = [
    ({"model": "other"}, anthropic.NotFoundError, "not_found_error"),
    ({"messages": []}, anthropic.BadRequestError, "invalid_request_error"),
    ({"max_tokens": -1}, anthropic.BadRequestError, "invalid_request_error"),
    ({"temperature": 9.0}, anthropic.BadRequestError, "invalid_request_error"),
    ({"messages": [*USER, {"role": "assistant", "content": "{"}]}, anthropic.BadRequestError, "invalid_request_error"),
]


@pytest.mark.parametrize(("fields", "error", "kind"), ERRORS)
@pytest.mark.parametrize("stream", [False, True])
def test_errors(fields, error, kind, stream):
    with messages_client(build(says("x"))) as sdk, pytest.raises(error) as caught:
        sdk.messages.create(
            stream=stream, **{"model": "tiny", "max_tokens": 9, "messages": USER, "extra_body": {}, **moved(fields)}
        )
    assert caught.value.type == kind
    assert caught.value.body["request_id"] == caught.value.request_id == "req_1"
    assert caught.value.response.headers["x-should-retry"] == "false"


def moved(fields):
    """What the SDK does not know of goes into the body all the same."""
    known = {name: value for name, value in fields.items() if name != "temperature"}
    return {**known, "extra_body": {"temperature": fields["temperature"]}} if "temperature" in fields else known


def test_a_failure_before_the_first_token_is_a_status():
    for stream in (False, True):
        with messages_client(build(ScriptedBackend([], error="It broke."))) as sdk:
            with pytest.raises(anthropic.InternalServerError) as caught:
                create(sdk, stream=stream)
            assert caught.value.type == "api_error"


def test_a_failure_in_between_closes_the_block_first():
    backend = ScriptedBackend(tokens("Hello"), error="It broke.")
    lines = raw_stream(build(backend))
    kinds = [line["type"] for line in lines]
    assert kinds[:3] == ["message_start", "ping", "content_block_start"]
    assert kinds[-2:] == ["content_block_stop", "error"]
    assert lines[-1]["error"]["type"] == "api_error"
    with (
        messages_client(build(ScriptedBackend(tokens("Hello"), error="It broke."))) as sdk,
        pytest.raises(anthropic.APIStatusError),
        sdk.messages.stream(model="tiny", max_tokens=50, messages=USER) as stream,
    ):
        stream.get_final_message()


def test_not_ready_is_overloaded():
    backend = says("x")
    backend.state = "starting"
    with messages_client(build(backend)) as sdk, pytest.raises(anthropic.OverloadedError) as caught:
        create(sdk)
    assert caught.value.type == "overloaded_error"
    assert caught.value.response.headers["x-should-retry"] == "true"
    assert caught.value.response.headers["retry-after"] == "5"


def raw_stream(app, **fields):
    async def run():
        async with asking(app) as http:
            body = {"model": "tiny", "max_tokens": 50, "messages": USER, "stream": True, **fields}
            return await http.post("/v1/messages", json=body)

    response = asyncio.run(run())
    assert response.headers["content-type"].startswith("text/event-stream")
    frames = response.text.removesuffix("\n\n").split("\n\n")
    events = []
    for frame in frames:
        name, data = frame.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


def test_slow_streams_begin_and_are_kept_alive():
    backend = ScriptedBackend([*tokens("Hi"), tiny_tokenizer().eos_id], pause=0.25, cached=2)
    events = raw_stream(build(backend, patience_s=0.02, idle_s=0.1))
    kinds = [event["type"] for event in events]
    assert kinds[:3] == ["message_start", "ping", "ping"]
    assert kinds.count("ping") > 3
    assert events[0]["message"]["usage"]["cache_read_input_tokens"] == 0
    assert events[-2]["usage"]["cache_read_input_tokens"] == 2


def test_a_client_that_leaves_frees_the_engine():
    backend = says("word " * 200, pause=0.02)
    with messages_client(build(backend)) as sdk:
        with sdk.messages.stream(model="tiny", max_tokens=500, messages=USER) as stream:
            next(iter(stream.text_stream))
        for _ in range(100):
            if backend.aborted:
                break
            asyncio.run(asyncio.sleep(0.02))
    assert backend.aborted


FILES = {"a.py": "print(1)\n"}


def test_an_agent_reads_and_edits_until_it_is_done():
    """A scripted loop of tools: each answer is made of what the tools said before."""
    call = "<longcat_tool_call>{}\n{}</longcat_tool_call>\n"
    argument = "<longcat_arg_key>{}</longcat_arg_key>\n<longcat_arg_value>{}</longcat_arg_value>\n"
    backend = says(
        "First I look.\n</longcat_think>\nI read.\n" + call.format("read", argument.format("path", "a.py")),
        "Now I write.\n</longcat_think>\n"
        + call.format("write", argument.format("path", "a.py") + argument.format("text", "print(2)\n"))
        + call.format("write", argument.format("path", "b/c.py") + argument.format("text", "x")),
        "It is done.\n</longcat_think>\nDone.",
    )
    text = {"type": "string"}
    tools = [
        {"name": "read", "input_schema": {"type": "object", "properties": {"path": text}}},
        {"name": "write", "input_schema": {"type": "object", "properties": {"path": text, "text": text}}},
    ]
    files, messages = dict(FILES), [{"role": "user", "content": "Make it print 2."}]

    def use(block):
        path = block.input["path"]
        if block.name == "read":
            return {"content": files[path]}
        if "/" in path:
            return {"content": f"no folder for {path}", "is_error": True}
        files[path] = block.input["text"]
        return {"content": [{"type": "text", "text": "written"}]}

    with messages_client(build(backend)) as sdk:
        while True:
            with sdk.messages.stream(
                model="tiny", max_tokens=400, messages=messages, tools=tools, thinking=ON
            ) as stream:
                message = stream.get_final_message()
            messages.append({"role": "assistant", "content": message.content})
            if message.stop_reason != "tool_use":
                break
            used = [block for block in message.content if block.type == "tool_use"]
            results = [{"type": "tool_result", "tool_use_id": block.id, **use(block)} for block in used]
            messages.append({"role": "user", "content": results})
    assert files == {"a.py": "print(2)\n"}
    assert message.content[-1].text == "Done."
    last = tiny_tokenizer().decode(backend.requests[-1].prompt)
    for part in ("First I look.", "print(1)", "Now I write.", "write\nwritten", "write\nError: no folder for b/c.py"):
        assert part in last
