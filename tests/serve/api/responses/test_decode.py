import json

import pytest

from homegrown.serve.api.body import decode
from homegrown.serve.api.responses import schema
from homegrown.serve.api.responses.decode import conversation, toolbox_of
from homegrown.serve.api.responses.items import normal
from homegrown.serve.api.seal import Seal
from homegrown.serve.conversation import Options, ToolChoice
from homegrown.serve.errors import ApiError
from homegrown.serve.messages import Sampling

SEAL = Seal()
OPTIONS = Options(sampling=Sampling(max_tokens=8))
SHELL = {"type": "function", "name": "shell", "description": "runs", "parameters": {"type": "object"}, "strict": False}
PATCH = {
    "type": "custom",
    "name": "apply_patch",
    "description": "edits",
    "format": {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"},
}


def decoded(given="hi", earlier=(), **fields):
    body = decode(json.dumps({"model": "m", "input": given, **fields}).encode(), schema.CreateResponse)
    items = normal(body.input)
    return conversation(body, list(earlier), items, toolbox_of(body, items), OPTIONS, SEAL)


def said(role, *texts, part="input_text"):
    return {"type": "message", "role": role, "content": [{"type": part, "text": text} for text in texts]}


def refused(**fields):
    with pytest.raises(ApiError) as caught:
        decoded(**fields)
    assert caught.value.kind == "invalid"
    return caught.value


def test_text_and_instructions():
    assert decoded("hi", instructions="Be.").messages == [
        {"role": "system", "content": "Be."},
        {"role": "user", "content": "hi"},
    ]
    assert decoded([{"role": "user", "content": "hi"}]).messages == decoded("hi").messages
    assert decoded([said("user", "hi")]).messages == decoded("hi").messages


def test_developer_is_system_in_place():
    turns = decoded([said("user", "a"), said("developer", "b", "c"), said("user", "d")]).messages
    assert [(turn["role"], turn["content"]) for turn in turns] == [("user", "a"), ("system", "b\n\nc"), ("user", "d")]


def test_a_round_of_tools_is_one_turn():
    given = [
        said("user", "look"),
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "which?"}]},
        said("assistant", "I look.", part="output_text"),
        {"type": "function_call", "call_id": "call_1", "name": "shell", "arguments": '{"command": ["ls"]}'},
        {"type": "custom_tool_call", "call_id": "call_2", "name": "apply_patch", "input": "*** Begin"},
        {"type": "function_call_output", "call_id": "call_1", "output": "a.py"},
        {"type": "custom_tool_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "done"}]},
        {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": SEAL.seal("now?")},
        said("assistant", "Done.", part="output_text"),
    ]
    user, first, ls, patch, last = decoded(given).messages
    assert user["content"] == "look"
    assert (first["reasoning_content"], first["content"]) == ("which?", "I look.")
    assert [call["function"] for call in first["tool_calls"]] == [
        {"name": "shell", "arguments": {"command": ["ls"]}},
        {"name": "apply_patch", "arguments": {"input": "*** Begin"}},
    ]
    assert (ls["name"], ls["content"], patch["name"], patch["content"]) == ("shell", "a.py", "apply_patch", "done")
    assert (last["reasoning_content"], last["content"]) == ("now?", "Done.")


def test_earlier_items_come_first_and_instructions_before_them():
    turns = decoded("b", earlier=[said("user", "a"), said("assistant", "A", part="output_text")], instructions="Be.")
    assert [turn["content"] for turn in turns.messages] == ["Be.", "a", "A", "b"]


def test_reasoning_of_others_is_not_refused():
    item = {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "gAAAA"}
    assert decoded([said("user", "a"), item, said("user", "b")]).messages == [
        {"role": "user", "content": "a"},
        {"role": "user", "content": "b"},
    ]


def test_what_means_nothing_to_the_model_is_skipped():
    given = [
        {"type": "item_reference", "id": "msg_1"},
        {"id": "msg_2"},
        {"type": "web_search_call", "id": "ws", "status": "completed"},
        said("user", "a"),
        {"type": "compaction", "encrypted_content": "x"},
    ]
    assert decoded(given).messages == [{"role": "user", "content": "a"}]


def test_pictures_leave_a_note():
    given = [{"role": "user", "content": [{"type": "input_text", "text": "see"}, {"type": "input_image"}]}]
    assert decoded(given).messages[0]["content"] == "see\n\n[An image was left out: this model reads text only.]"


def test_tools():
    inner = {"type": "function", "name": "find", "parameters": {}}
    group = {"type": "namespace", "name": "mcp__docs", "description": "d", "tools": [inner]}
    box = toolbox_of(
        decode(
            json.dumps({"model": "m", "tools": [SHELL, PATCH, group, {"type": "web_search"}]}).encode(),
            schema.CreateResponse,
        ),
        [],
    )
    shell, patch, find = box.tools
    assert (shell.name, find.name) == ("shell", "mcp__docs__find")
    assert "start: /.+/" in patch.description
    assert patch.parameters["required"] == ["input"]
    assert box.callee("apply_patch").custom
    assert (box.callee("mcp__docs__find").name, box.callee("mcp__docs__find").namespace) == ("find", "mcp__docs")


def test_tools_among_the_input():
    added = {"type": "additional_tools", "role": "developer", "tools": [SHELL]}
    assert [tool.name for tool in decoded([added, said("user", "a")]).tools] == ["shell"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, ToolChoice()),
        ("auto", ToolChoice()),
        ("none", ToolChoice(mode="none")),
        ("required", ToolChoice(mode="required")),
        ({"type": "function", "name": "shell"}, ToolChoice(mode="required", names=("shell",))),
        ({"type": "custom", "name": "apply_patch"}, ToolChoice(mode="required", names=("apply_patch",))),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "shell"}]},
            ToolChoice(mode="auto", names=("shell",)),
        ),
        ({"type": "web_search"}, ToolChoice()),
    ],
)
def test_tool_choice(given, expected):
    assert decoded(tools=[SHELL, PATCH], tool_choice=given).choice == expected


def test_one_call_at_a_time():
    assert not decoded(tools=[SHELL], parallel_tool_calls=False).choice.parallel


@pytest.mark.parametrize(("effort", "expected"), [(None, None), ("none", False), ("minimal", False), ("high", True)])
def test_effort(effort, expected):
    assert decoded(reasoning={"effort": effort, "summary": "auto"}).thinking is expected


def test_formats():
    given = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
    assert decoded(text={"format": given, "verbosity": "low"}).format.schema == {"type": "object"}
    assert decoded(text={"format": given}).format.strict
    assert not decoded(text={"format": {**given, "strict": None}}).format.strict
    assert decoded(text={"format": {"type": "json_object"}}).format.kind == "json"
    assert decoded(text={"format": {"type": "text"}}).format.kind == "text"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"given": None}, "input"),
        ({"given": []}, "input"),
        ({"given": 3}, "input"),
        ({"given": [said("system", "x")]}, "input"),
        ({"given": [{"role": "tool", "content": "x"}]}, "input[0].role"),
        ({"given": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
        ({"given": [{"role": "user", "content": [{"text": "x"}]}]}, "input[0].content[0].type"),
        ({"given": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "["}]}, "input[0].arguments"),
        ({"given": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "[]"}]}, "input[0].arguments"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"tools": [SHELL, SHELL]}, "tools[1]"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"tool_choice": "required", "tools": [{"type": "web_search"}]}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
    ],
)
def test_what_is_wrong_is_named(fields, param):
    assert refused(**fields).param == param
