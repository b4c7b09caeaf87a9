"""The Responses API through OpenAI's own SDK, over a real server."""

import asyncio
import json

import openai
import pytest
from openai import AsyncOpenAI

from homegrown.serve.api.responses.store import Store
from homegrown.serve.card import ModelCard

from ...running import running
from ...scripted import ScriptedBackend
from ...tiny import tiny_tokenizer
from ..dialects import asking, build, responses_client
from ..openai.serving import says, tokens

ANSWER = "hm\n</longcat_think>\nHello é!"
CALL = "<longcat_tool_call>{}\n{}</longcat_tool_call>\n"
ARGUMENT = "<longcat_arg_key>{}</longcat_arg_key>\n<longcat_arg_value>{}</longcat_arg_value>\n"
TEXT = {"type": "string"}
READ = {
    "type": "function",
    "name": "read",
    "description": "Reads a file.",
    "parameters": {"type": "object", "properties": {"path": TEXT}},
    "strict": False,
}
PATCH = {"type": "custom", "name": "apply_patch", "description": "Edits files."}
TOOLS = [READ, PATCH, {"type": "web_search"}, {"type": "local_shell"}]


def create(sdk, **fields):
    return sdk.responses.create(**{"model": "tiny", "input": "hi", **fields})


def test_whole_response():
    with responses_client(build(says(ANSWER, cached=3))) as sdk:
        response = create(sdk, instructions="Be.", metadata={"k": "v"}, temperature=0.5)
    assert response.id.startswith("resp_")
    assert (response.object, response.status, response.error) == ("response", "completed", None)
    assert response.output_text == "Hello é!"
    reasoning, message = response.output
    assert reasoning.content[0].text == "hm"
    assert (message.role, message.status) == ("assistant", "completed")
    assert (response.instructions, response.metadata, response.temperature) == ("Be.", {"k": "v"}, 0.5)
    usage = response.usage
    assert usage.input_tokens_details.cached_tokens == 3
    assert 0 < usage.output_tokens_details.reasoning_tokens < usage.output_tokens
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens


@pytest.mark.parametrize("at_a_time", [1, 7, 1000])
def test_stream_accumulates_to_the_same(at_a_time):
    made = "hm\n</longcat_think>\nLooking.\n" + CALL.format("read", ARGUMENT.format("path", "a.py"))
    made += CALL.format("apply_patch", ARGUMENT.format("input", "*** Begin\n+x"))
    with responses_client(build(says(made, at_a_time=at_a_time))) as sdk:
        whole = create(sdk, tools=TOOLS)
        with sdk.responses.stream(model="tiny", input="hi", tools=TOOLS) as stream:
            events = list(stream)
            streamed = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "Looking."
    arguments = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert json.loads("".join(arguments)) == {"path": "a.py"}
    assert [comparable(item) for item in streamed.output] == [comparable(item) for item in whole.output]
    assert whole.usage == streamed.usage
    reasoning, message, read, patch = streamed.output
    assert (reasoning.content[0].text, message.content[0].text) == ("hm", "Looking.")
    assert (read.type, read.name, read.arguments) == ("function_call", "read", '{"path": "a.py"}')
    assert (patch.type, patch.name, patch.input) == ("custom_tool_call", "apply_patch", "*** Begin\n+x")


def comparable(item):
    left_out = ("id", "call_id", "parsed_arguments", "parsed")
    fields = {name: value for name, value in item.to_dict().items() if name not in left_out}
    if "content" in fields:
        parts = fields["content"]
        fields["content"] = [{name: part[name] for name in part if name != "parsed"} for part in parts]
    return fields


def test_asynchronous_client():
    async def run(address):
        async with AsyncOpenAI(base_url=f"{address}/v1", api_key="x", max_retries=0) as sdk:
            response = await sdk.responses.create(model="tiny", input="hi")
            async with sdk.responses.stream(model="tiny", input="hi") as stream:
                final = await stream.get_final_response()
            raw = [event async for event in await sdk.responses.create(model="tiny", input="hi", stream=True)]
        return response.output_text, final.output_text, raw[-1].response.output_text

    with running(build(says(ANSWER))) as address:
        assert asyncio.run(run(address)) == ("Hello é!",) * 3


def decoded_prompts(backend):
    return [tiny_tokenizer().decode(request.prompt) for request in backend.requests]


def test_effort_decides_on_thinking():
    backend = says(ANSWER)
    with responses_client(build(backend)) as sdk:
        for effort in ("none", "high"):
            create(sdk, reasoning={"effort": effort})
    off, on = decoded_prompts(backend)
    user = [{"role": "user", "content": "hi"}]
    assert off == tiny_tokenizer().render_chat(user, enable_thinking=False)
    assert on == tiny_tokenizer().render_chat(user, enable_thinking=True)


def test_going_on_from_a_stored_response():
    backend = says(ANSWER, "ok\n</longcat_think>\nBye.")
    with responses_client(build(backend)) as sdk:
        first = create(sdk, instructions="Be.")
        second = create(sdk, input="more", previous_response_id=first.id)
        third = create(sdk, input="last", previous_response_id=second.id)
        again = sdk.responses.retrieve(second.id)
        items = list(sdk.responses.input_items.list(second.id))
        counted = sdk.responses.input_tokens.count(model="tiny", input="more", previous_response_id=first.id)
        sdk.responses.delete(first.id)
        with pytest.raises(openai.NotFoundError):
            sdk.responses.retrieve(first.id)
        with pytest.raises(openai.NotFoundError) as caught:
            create(sdk, input="x", previous_response_id=third.id)
    assert caught.value.param == "previous_response_id"
    assert again.to_dict() == second.to_dict()
    assert [item.content[0].text for item in items] == ["more"]
    assert counted.input_tokens == len(backend.requests[1].prompt)
    assert second.previous_response_id == first.id
    prompt = decoded_prompts(backend)[2]
    assert "Be." not in prompt
    assert prompt.index("hi") < prompt.index("Hello é!") < prompt.index("more") < prompt.index("Bye.")


def test_what_is_not_stored_is_not_found():
    with responses_client(build(says(ANSWER))) as sdk:
        kept_out = create(sdk, store=False)
        with pytest.raises(openai.NotFoundError):
            sdk.responses.retrieve(kept_out.id)
    with responses_client(build(says(ANSWER), store=Store(max_bytes=10))) as sdk:
        too_large = create(sdk)
        with pytest.raises(openai.NotFoundError):
            sdk.responses.retrieve(too_large.id)


def test_streams_are_stored_too():
    with responses_client(build(says(ANSWER))) as sdk:
        with sdk.responses.stream(model="tiny", input="hi") as stream:
            made = stream.get_final_response()
        assert sdk.responses.retrieve(made.id).output_text == "Hello é!"


def test_responses_are_their_tenants_own():
    with responses_client(build(says(ANSWER))) as sdk:
        ours = create(sdk, extra_headers={"x-tenant": "a"})
        assert sdk.responses.retrieve(ours.id, extra_headers={"x-tenant": "a"}).id == ours.id
        for attempt in (sdk.responses.retrieve, sdk.responses.delete, sdk.responses.cancel):
            with pytest.raises(openai.NotFoundError):
                attempt(ours.id, extra_headers={"x-tenant": "b"})
        with pytest.raises(openai.NotFoundError):
            create(sdk, previous_response_id=ours.id, extra_headers={"x-tenant": "b"})


def test_reasoning_comes_back_sealed_to_clients_that_keep_it():
    backend = says("my thought\n</longcat_think>\nHello.")
    asked = {"store": False, "include": ["reasoning.encrypted_content"], "reasoning": {"summary": "auto"}}
    with responses_client(build(backend)) as sdk:
        first = create(sdk, tools=TOOLS, **asked)
        reasoning, message = (item.to_dict() for item in first.output)
        assert reasoning["summary"] == [{"type": "summary_text", "text": "my thought"}]
        sealed = {**reasoning, "summary": [], "content": None}
        hi = {"role": "user", "content": "hi"}
        create(sdk, tools=TOOLS, input=[hi, sealed, message, {"role": "user", "content": "more"}], **asked)
    assert "my thought" in decoded_prompts(backend)[1]


def test_in_the_background():
    backend = says(ANSWER, pause=0.005)
    with responses_client(build(backend)) as sdk:
        begun = create(sdk, background=True)
        assert (begun.status, begun.output) == ("in_progress", [])
        for _ in range(200):
            response = sdk.responses.retrieve(begun.id)
            if response.status != "in_progress":
                break
        assert (response.status, response.output_text) == ("completed", "Hello é!")
        assert sdk.responses.cancel(begun.id).status == "completed"


def test_cancelling():
    backend = says("word " * 300, pause=0.02)
    with responses_client(build(backend)) as sdk:
        begun = create(sdk, background=True, reasoning={"effort": "none"})
        assert sdk.responses.cancel(begun.id).status == "cancelled"
        assert sdk.responses.retrieve(begun.id).status == "cancelled"
        at_once = create(sdk, background=True)
        sdk.responses.delete(at_once.id)
        with pytest.raises(openai.NotFoundError):
            sdk.responses.retrieve(at_once.id)
        backend_free = says(ANSWER)
    assert len(backend.aborted) == len(backend.requests)
    with responses_client(build(backend_free)) as sdk:
        done = create(sdk)
        with pytest.raises(openai.BadRequestError):
            sdk.responses.cancel(done.id)


def test_a_failure_in_the_background():
    with responses_client(build(ScriptedBackend(tokens("Hello"), error="It broke."))) as sdk:
        begun = create(sdk, background=True)
        for _ in range(200):
            response = sdk.responses.retrieve(begun.id)
            if response.status != "in_progress":
                break
    assert (response.status, response.error.code, response.error.message) == ("failed", "server_error", "It broke.")


def test_log_probabilities():
    with responses_client(build(says("Hi", end=True))) as sdk:
        asked = {"top_logprobs": 1, "include": ["message.output_text.logprobs"], "reasoning": {"effort": "none"}}
        response = create(sdk, **asked)
        with sdk.responses.stream(model="tiny", input="hi", **asked) as stream:
            deltas = [event for event in stream if event.type == "response.output_text.delta"]
        assert create(sdk).output[-1].content[0].logprobs == []
    scored = response.output[0].content[0].logprobs
    assert "".join(entry.token for entry in scored) == "Hi"
    assert [entry.logprob for entry in scored] == [-0.5] * len(scored)
    assert [entry.top_logprobs[0].token for entry in scored] == [entry.token for entry in scored]
    assert [entry.token for delta in deltas for entry in delta.logprobs] == [entry.token for entry in scored]
    assert response.top_logprobs == 1


def test_cut_off():
    with responses_client(build(says("one two three four five"))) as sdk:
        response = create(sdk, max_output_tokens=3, reasoning={"effort": "none"})
        with sdk.responses.stream(model="tiny", input="hi", max_output_tokens=3) as stream:
            last = list(stream)[-1]
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert (last.type, last.response.status) == ("response.incomplete", "incomplete")


def events_of(app, **fields):
    async def run():
        async with asking(app) as http:
            return await http.post("/v1/responses", json={"model": "tiny", "input": "hi", "stream": True, **fields})

    response = asyncio.run(run())
    assert response.status_code == 200, response.text
    events = []
    for frame in response.text.removesuffix("\n\n").split("\n\n"):
        if not frame.startswith(":"):
            name, data = frame.split("\n")
            events.append(json.loads(data.removeprefix("data: ")))
            assert name == f"event: {events[-1]['type']}"
    return response.text, events


def test_a_failure_ends_the_stream_in_words_that_agents_know():
    _, events = events_of(build(ScriptedBackend(tokens("Hello"), error="It broke.")))
    assert [event["type"] for event in events[-2:]] == ["response.output_item.done", "response.failed"]
    assert events[-1]["response"]["error"] == {"code": "server_error", "message": "It broke."}
    short = ModelCard(id="tiny", context_length=32, max_output=16)
    _, events = events_of(build(says(ANSWER), card=short), input="word " * 40)
    assert [event["type"] for event in events] == ["response.created", "response.in_progress", "response.failed"]
    assert events[-1]["response"]["error"]["code"] == "context_length_exceeded"
    assert [event["sequence_number"] for event in events] == [0, 1, 2]
    with responses_client(build(says(ANSWER), card=short)) as sdk, pytest.raises(openai.BadRequestError) as caught:
        create(sdk, input="word " * 40)
    assert caught.value.code == "context_length_exceeded"


def test_slow_streams_begin_and_are_kept_alive():
    backend = ScriptedBackend([*tokens("Hi"), tiny_tokenizer().eos_id], pause=0.25)
    text, events = events_of(build(backend, patience_s=0.02, idle_s=0.1))
    assert text.startswith("event: response.created\n")
    assert text.count(": keep-alive\n\n") > 2
    assert events[-1]["type"] == "response.completed"


@pytest.mark.parametrize(
    "fields",
    [
        {"input": []},
        {"model": "other"},
        {"previous_response_id": "resp_x"},
        {"background": True, "store": False},
        {"background": True, "stream": True},
        {"max_output_tokens": 0},
        {"extra_body": {"conversation": "conv_1"}},
    ],
)
def test_errors(fields):
    with responses_client(build(says(ANSWER))) as sdk, pytest.raises(openai.APIStatusError) as caught:
        create(sdk, **fields)
    assert caught.value.status_code in (400, 404)
    assert set(caught.value.body) == {"message", "type", "param", "code"}


def test_wrong_questions_about_stored_responses():
    async def run():
        async with asking(build(says(ANSWER))) as http:
            made = (await http.post("/v1/responses", json={"model": "tiny", "input": "hi"})).json()["id"]
            paths = [
                f"/v1/responses/{made}?stream=true",
                f"/v1/responses/{made}/input_items?limit=0",
                "/v1/responses/x",
            ]
            return [(await http.get(path)).status_code for path in paths]

    assert asyncio.run(run()) == [400, 400, 404]


def test_a_codex_like_loop():
    """Stateless, streaming, only `output_item.done` is read, and everything is handed back."""
    backend = says(
        "First I look.\n</longcat_think>\nI read.\n" + CALL.format("read", ARGUMENT.format("path", "a.py")),
        "Now I write.\n</longcat_think>\n" + CALL.format("apply_patch", ARGUMENT.format("input", "print(2)\n")),
        "It is done.\n</longcat_think>\nDone.",
    )
    files = {"a.py": "print(1)\n"}
    items = [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "You edit files."}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Make it print 2."}]},
    ]
    with responses_client(build(backend)) as sdk:
        while True:
            output, last = [], None
            for event in create(
                sdk, instructions="You are an agent.", input=items, tools=TOOLS, tool_choice="auto", stream=True,
                parallel_tool_calls=False, reasoning={"effort": "medium", "summary": "auto"}, store=False,
                include=["reasoning.encrypted_content"], prompt_cache_key="k", text={"verbosity": "low"},
            ):  # fmt: skip
                if event.type == "response.output_item.done":
                    output.append(event.item.to_dict())
                last = event
            assert last.type == "response.completed"
            items += output
            results = []
            for item in output:
                if item["type"] == "function_call":
                    path = json.loads(item["arguments"])["path"]
                    results.append({"type": "function_call_output", "call_id": item["call_id"], "output": files[path]})
                elif item["type"] == "custom_tool_call":
                    files["a.py"] = item["input"]
                    results.append({"type": "custom_tool_call_output", "call_id": item["call_id"], "output": "ok"})
            if not results:
                break
            items += results
    assert files == {"a.py": "print(2)\n"}
    assert last.response.output_text == "Done."
    prompts = decoded_prompts(backend)
    for part in ("You edit files.", "First I look.", "print(1)", "Now I write.", "apply_patch\nok"):
        assert part in prompts[-1]
    for earlier, later, said in zip(prompts, prompts[1:], ("First I look.", "Now I write."), strict=False):
        assert later.startswith(earlier + said), "the prefix cache would be lost"
