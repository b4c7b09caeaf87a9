"""What becomes of a request's fields: the prompt that the engine gets, its settings, and what is refused."""

import asyncio
import re
from types import SimpleNamespace

import pytest

from ...tiny import tiny_tokenizer
from .serving import asking, build, says

USER = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
THINKING = "think\n</longcat_think>\n"


def ask(backend, client=None, **fields):
    """The response to a chat of these fields."""
    app = build(backend)

    async def with_client(scope, receive, send):
        scope.setdefault("state", {})["client"] = client
        await app(scope, receive, send)

    async def run():
        async with asking(with_client if client else app) as http:
            return await http.post("/v1/chat/completions", json={"messages": USER, **fields})

    return asyncio.run(run())


def engine_request(client=None, **fields):
    """What the engine is asked for."""
    backend = says(THINKING + "ok")
    response = ask(backend, client, **fields)
    assert response.status_code == 200, response.text
    return backend.requests[0]


def prompt(**fields):
    return tiny_tokenizer().decode(engine_request(**fields).prompt)


def refused(**fields):
    response = ask(says("x"), **fields)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    return error


def test_all_roles():
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1, "b": "x"}'}}
    messages = [
        {"role": "developer", "content": "first"},
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}], "name": "me"},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "because"},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "done"}]},
        {"role": "system", "content": "second"},
        {"role": "assistant", "content": "fine", "refusal": None},
        {"role": "user", "content": "go on"},
    ]
    expected = tiny_tokenizer().render_chat(
        [
            {"role": "system", "content": "first"},
            {"role": "user", "content": "one\ntwo"},
            {
                "role": "assistant",
                "content": "",
                "reasoning_content": "because",
                "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1, "b": "x"}}}],
            },
            {"role": "tool", "name": "f", "content": "done"},
            {"role": "system", "content": "second"},
            {"role": "assistant", "content": "fine"},
            {"role": "user", "content": "go on"},
        ],
        tools=[TOOL],
        save_reasoning_content=True,
    )
    assert prompt(messages=messages, tools=[TOOL]) == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"reasoning": "because"},
        {"reasoning_content": "because"},
        {"reasoning_details": [{"type": "reasoning.text", "text": "bec"}, {"type": "reasoning.text", "text": "ause"}]},
    ],
)
def test_reasoning_comes_back_under_any_name(fields):
    messages = [*USER, {"role": "assistant", "content": "x", **fields}, *USER]
    text = prompt(messages=messages, chat_template_kwargs={"save_reasoning_content": True})
    assert "<longcat_think>\nbecause\n</longcat_think>\nx" in text
    assert "because" not in prompt(messages=messages, chat_template_kwargs={"save_reasoning_content": False})


def test_function_messages_of_old():
    messages = [
        *USER,
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "7"},
    ]
    text = prompt(messages=messages, functions=[TOOL["function"]])
    assert "<longcat_tool_call>f\n</longcat_tool_call>" in text
    assert "<longcat_tool_response>f\n7</longcat_tool_response>" in text


@pytest.mark.parametrize(
    ("fields", "thinks"),
    [
        ({}, True),
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "high"}, True),
        ({"reasoning": {"enabled": False}}, False),
        ({"reasoning": {"effort": "none"}}, False),
        ({"thinking": {"type": "disabled"}}, False),
        ({"thinking": {"type": "enabled", "budget_tokens": 5}}, True),
        ({"enable_thinking": False}, False),
        ({"chat_template_kwargs": {"enable_thinking": False}}, False),
        ({"chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": "none"}, True),
    ],
)
def test_thinking(fields, thinks):
    text = prompt(**fields)
    assert text.endswith("<longcat_think>\n" if thinks else "</longcat_think>\n")


def test_template_variables():
    assert "/think_on" in prompt()
    assert "/think_on" not in prompt(chat_template_kwargs={"thinking_suffix": False})


def test_sampling():
    request = engine_request(
        temperature=0.5, top_p=0.9, top_k=7, min_p=0.1, presence_penalty=0.2, frequency_penalty=0.3,
        repetition_penalty=1.1, seed=5, logit_bias={"9": -3}, max_tokens=40, min_tokens=2, stop_token_ids=[8],
        ignore_eos=True, logprobs=True, top_logprobs=4, cache_salt="s", priority=-2,
    )  # fmt: skip
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.5, 0.9, 7, 0.1)
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty) == (0.2, 0.3, 1.1)
    assert (sampling.seed, sampling.logit_bias, sampling.logprobs) == (5, {9: -3.0}, 4)
    assert (sampling.max_tokens, sampling.min_tokens, sampling.ignore_eos) == (40, 2, True)
    assert 8 in sampling.stop_ids
    assert (request.salt, request.priority) == ("s", -2)


def test_defaults():
    first, second = engine_request(top_k=-1, temperature=None, stop=None), engine_request()
    assert first.sampling.top_k == 0
    assert first.sampling.max_tokens == 512
    assert first.sampling.seed != second.sampling.seed


def test_a_request_cannot_raise_its_keys_priority():
    key = SimpleNamespace(tenant="team", priority=3)
    assert engine_request(key).tenant == "team"
    assert [engine_request(key, **fields).priority for fields in ({}, {"priority": 9}, {"priority": 1})] == [3, 3, 1]


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "integer"}}}},
        {"regex": "[0-9]+"},
        {"grammar": 'start: "a" | "b"'},
        {"structured_outputs": {"json": {"type": "integer"}}},
        {"structured_outputs": {"json": '{"type": "integer"}'}},
        {"structured_outputs": {"choice": ["yes", 'n"o\n']}},
        {"structured_outputs": {"regex": "a+"}},
        {"structured_outputs": {"json_object": True}},
        {"tools": [TOOL], "tool_choice": "required"},
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"functions": [TOOL["function"]], "function_call": {"name": "f"}},
    ],
)
def test_constrained_answers(fields):
    assert engine_request(**fields).sampling.grammar is not None


def test_a_strict_schema_is_held_to_in_full_or_refused():
    def wanted(strict):
        schema = {"type": "string", "not": {"const": "x"}}
        return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": strict}}

    assert refused(response_format=wanted(True))["param"].startswith("response_format")
    assert engine_request(response_format=wanted(False)).sampling.grammar is not None
    assert engine_request(response_format=wanted(None)).sampling.grammar is not None


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "text"}},
        {"tools": [TOOL]},
        {"tools": [TOOL], "tool_choice": "none"},
        {"tool_choice": "auto", "parallel_tool_calls": True},
        {"tools": [{"type": "web_search"}, {"type": "web_search_preview", "x": 1}]},
        {"structured_outputs": {}},
    ],
)
def test_free_answers(fields):
    assert engine_request(**fields).sampling.grammar is None


def test_allowed_tools():
    tools = [TOOL, {"type": "function", "function": {"name": "g"}}]
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "g"}}]}
    request = engine_request(tools=tools, tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    names = re.findall(r"longcat_tool_call> *\"(\w+)", request.sampling.grammar.lark)
    assert names == ["g"], request.sampling.grammar.lark
    assert "### Tool name: f" in tiny_tokenizer().decode(request.prompt)


def test_what_clients_may_send_and_nobody_reads():
    fields = {
        "user": "u", "store": True, "metadata": {"a": "b"}, "prompt_cache_key": "k", "service_tier": "auto",
        "verbosity": "low", "prediction": {"type": "content", "content": "x"}, "web_search_options": {},
        "modalities": ["text"], "safety_identifier": "s", "audio": None, "some_new_field": [1, {"x": None}],
        "prompt_cache_retention": "24h",
    }  # fmt: skip
    assert engine_request(**fields)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [*USER, {"role": "wizard", "content": "x"}]}, "messages[1].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]},
            "messages[0].tool_calls[0].function.arguments",
        ),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 10**9}, "n"),
        ({"seed": 10**30}, "seed"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"logit_bias": {"100000": 1}}, "logit_bias"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"stop": [""]}, "stop"),
        ({"stop": [3]}, "stop[0]"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [TOOL, TOOL]}, "tools[1].name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "allowed_tools": {"tools": []}}}, "tool_choice"),
        ({"function_call": "sometimes", "functions": [TOOL["function"]]}, "function_call"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"response_format": {"type": "json_object"}, "regex": "a"}, "response_format"),
        ({"structured_outputs": {"regex": "a", "grammar": "b"}}, "structured_outputs"),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs.json"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
        ({"regex": "("}, None),
        ({"grammar": "start: ("}, None),
        ({"chat_template_kwargs": {"enable_thinking": "yes"}}, "chat_template_kwargs.enable_thinking"),
        ({"chat_template_kwargs": {"messages": []}}, None),
        ({"chat_template_kwargs": {"tools": [], "template": "x", "add_generation_prompt": False}}, None),
    ],
)
def test_refusals(fields, param):
    error = refused(**fields)
    if param:
        assert (error["param"] or "").startswith(param), error
    assert error["message"].endswith(".")


def test_too_long():
    error = refused(messages=[{"role": "user", "content": "x" * 5000}])
    assert error["code"] == "context_length_exceeded"


def test_another_model():
    response = ask(says("x"), model="other")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


def test_a_server_that_is_not_ready():
    backend = says("x")
    backend.state = "starting"
    response = ask(backend)
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) >= 1
    assert response.json()["error"]["code"] == "not_ready"
