import json

import pytest

from homegrown.serve.api.anthropic import schema
from homegrown.serve.api.anthropic.decode import conversation
from homegrown.serve.api.body import decode
from homegrown.serve.api.seal import Seal
from homegrown.serve.conversation import Options, ToolChoice
from homegrown.serve.errors import ApiError
from homegrown.serve.messages import Sampling

SEAL = Seal()
OPTIONS = Options(sampling=Sampling(max_tokens=8))
TOOL = {"name": "read", "description": "reads", "input_schema": {"type": "object", "properties": {}}}


def decoded(messages="hi", **fields):
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    body = json.dumps({"model": "m", "max_tokens": 8, "messages": messages, **fields}).encode()
    return conversation(decode(body, schema.CreateMessage), OPTIONS, SEAL)


def turns(*contents, role="user", **fields):
    return decoded([{"role": role, "content": content} for content in contents], **fields).messages


def text(value, **fields):
    return {"type": "text", "text": value, **fields}


def refused(**fields):
    with pytest.raises(ApiError) as caught:
        decoded(**fields)
    assert caught.value.kind == "invalid"
    return caught.value


def test_texts():
    assert turns("hi") == turns([text("hi")]) == turns([text("hi", cache_control={"type": "ephemeral"})])
    assert turns([text("a"), text("b")]) == [{"role": "user", "content": "a\n\nb"}]
    assert turns([]) == [{"role": "user", "content": ""}]


def test_system_stands_first_and_in_place():
    messages = [
        {"role": "user", "content": "a"},
        {"role": "system", "content": [text("reminder")]},
        {"role": "user", "content": "b"},
    ]
    expected = ["system: one\n\ntwo", "user: a", "system: reminder", "user: b"]
    given = decoded(messages, system=[text("one"), text("two")]).messages
    assert [f"{turn['role']}: {turn['content']}" for turn in given] == expected


def test_a_passing_system_turn_passes():
    messages = [
        {"role": "user", "content": "a"},
        {"role": "system", "content": "old", "clear_at": "next_user_message"},
        {"role": "user", "content": "b"},
        {"role": "system", "content": "new", "clear_at": "next_user_message"},
    ]
    assert [turn["content"] for turn in decoded(messages).messages] == ["a", "b", "new"]


@pytest.mark.parametrize("number", ["1", "2"])
def test_billing_is_no_part_of_the_prompt(number):
    header = f"x-anthropic-billing-header: cc_version=2.1.{number}; cch=0000{number};"
    plain = decoded(system="You are.").messages
    assert decoded(system=[text(header), text("You are.")]).messages == plain
    assert decoded(system=f"{header}\nYou are.").messages == plain
    assert decoded(system=[text(header)]).messages == decoded().messages
    about = "Never send x-anthropic-billing-header: it is private."
    assert decoded(system=about).messages[0]["content"] == about


def test_a_round_of_tools():
    messages = [
        {"role": "user", "content": "look"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "which?", "signature": "from elsewhere"},
                text("I read."),
                {"type": "tool_use", "id": "toolu_1", "name": "read", "input": {"path": "a"}},
                {"type": "tool_use", "id": "toolu_2", "name": "list", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": [text("x"), {"type": "image"}]},
                {"type": "tool_result", "tool_use_id": "toolu_2", "content": "no such folder", "is_error": True},
                text("go on"),
            ],
        },
    ]
    _, assistant, first, second, user = decoded(messages).messages
    assert (assistant["content"], assistant["reasoning_content"]) == ("I read.", "which?")
    assert [call["function"] for call in assistant["tool_calls"]] == [
        {"name": "read", "arguments": {"path": "a"}},
        {"name": "list", "arguments": {}},
    ]
    assert first["name"] == "read"
    assert first["content"].startswith("x\n\n[An image")
    assert (second["name"], second["content"]) == ("list", "Error: no such folder")
    assert user == {"role": "user", "content": "go on"}


@pytest.mark.parametrize(
    ("block", "thought"),
    [
        ({"type": "thinking", "thinking": "so", "signature": ""}, "so"),
        ({"type": "thinking", "thinking": "", "signature": SEAL.seal("so")}, "so"),
        ({"type": "thinking", "thinking": "so"}, "so"),
        ({"type": "redacted_thinking", "data": SEAL.seal("so")}, "so"),
        ({"type": "redacted_thinking", "data": "another server's"}, None),
        ({"type": "thinking", "thinking": "", "signature": "another server's"}, None),
    ],
)
def test_thinking_is_never_refused(block, thought):
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": [block, text("b")]},
        {"role": "user", "content": "c"},
    ]
    assert decoded(messages).messages[1].get("reasoning_content") == thought


def test_blocks_that_are_not_text():
    found = {"type": "search_result", "title": "T", "source": "S", "content": [text("passage")]}
    paper = {"type": "document", "title": "P", "source": {"type": "text", "media_type": "text/plain", "data": "words"}}
    pdf = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AA=="}}
    summary = {"type": "compaction", "content": "before"}
    unknown = {"type": "web_search_tool_result", "content": {"error_code": 3}}
    (turn,) = turns([found, paper, pdf, summary, unknown, {"type": "image", "source": {}}])
    assert turn["content"] == (
        "T\n\nS\n\npassage\n\nP\n\nwords\n\n[A document was left out: this model reads plain text only.]\n\nbefore\n\n"
        "[An image was left out: this model reads text only.]"
    )


def test_tools():
    search = {"type": "web_search_20250305", "name": "web_search"}
    (tool,) = decoded(tools=[TOOL, search, {"type": "computer_toolset_20260801"}]).tools
    assert (tool.name, tool.description, tool.parameters["type"], tool.strict) == ("read", "reads", "object", False)
    assert decoded(tools=[{**TOOL, "type": "custom", "strict": True}]).tools[0].strict


def test_deferred_tools_come_when_they_are_found():
    later = {**TOOL, "name": "later", "defer_loading": True}
    assert [tool.name for tool in decoded(tools=[TOOL, later]).tools] == ["read"]
    found = {"type": "tool_result", "tool_use_id": "x", "content": [{"type": "tool_reference", "tool_name": "later"}]}
    messages = [{"role": "user", "content": [found]}]
    given = decoded(messages, tools=[TOOL, later])
    assert [tool.name for tool in given.tools] == ["read", "later"]
    assert given.messages[0]["content"] == "[Tool found: later]"
    reference = {"type": "tool_reference", "name": "later"}
    change = [{"role": "system", "content": [{"type": "tool_addition", "tool": reference}]}]
    assert [tool.name for tool in decoded([*messages[:0], *turns_of("a"), *change], tools=[later]).tools] == ["later"]
    new = {"type": "tool_addition", "tool": {"type": "tool_definition", "definition": {**TOOL, "name": "new"}}}
    added = decoded([*turns_of("a"), {"role": "system", "content": [new]}], tools=[TOOL])
    assert [tool.name for tool in added.tools] == ["read", "new"]


def turns_of(content):
    return [{"role": "user", "content": content}]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, ToolChoice()),
        ({"type": "auto", "disable_parallel_tool_use": True}, ToolChoice(parallel=False)),
        ({"type": "none"}, ToolChoice(mode="none")),
        ({"type": "any"}, ToolChoice(mode="required")),
        ({"type": "tool", "name": "read"}, ToolChoice(mode="required", names=("read",))),
    ],
)
def test_tool_choice(given, expected):
    assert decoded(tools=[TOOL], tool_choice=given).choice == expected


@pytest.mark.parametrize(
    ("thinking", "effort", "expected"),
    [
        (None, None, False),
        ({"type": "disabled"}, None, False),
        ({"type": "enabled", "budget_tokens": 1024}, None, True),
        ({"type": "between_tools"}, None, True),
        ({"type": "adaptive"}, None, True),
        ({"type": "adaptive", "display": "omitted"}, "max", True),
        ({"type": "adaptive"}, "low", False),
    ],
)
def test_thinking(thinking, effort, expected):
    assert decoded(thinking=thinking, output_config={"effort": effort}).thinking is expected


def test_formats():
    given = {"type": "json_schema", "schema": {"type": "object"}}
    assert decoded(output_config={"format": given}).format.schema == {"type": "object"}
    assert decoded(output_format=given).format.kind == "schema"
    assert decoded().format.kind == "text"


def test_what_is_not_known_is_ignored():
    extra = {"container": "x", "context_management": {"edits": []}, "mcp_servers": [], "betas": ["a"], "speed": "fast"}
    assert decoded(**extra, cache_control={"type": "ephemeral"}, metadata={"user_id": "u"}) == decoded()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0].type"),
        ({"messages": [*turns_of("a"), {"role": "assistant", "content": "b"}]}, "messages"),
        ({"max_tokens": None}, "max_tokens"),
        ({"tools": [TOOL, TOOL]}, "tools[1]"),
        ({"tools": [{"input_schema": {}}]}, "tools[0].name"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "write"}}, "tool_choice.name"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
    ],
)
def test_what_is_wrong_is_named(fields, param):
    assert refused(**fields).param == param
