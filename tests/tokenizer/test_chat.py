from __future__ import annotations

from typing import Any

import pytest

from homegrown.tokenizer import Tokenizer, TokenizerError

QUESTION = {"role": "user", "content": "hi"}
ON = " /think_on "
OPEN = "<longcat_assistant><longcat_think>\n"

CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "note": "x<y", "list": [True, "é"]}}}
CALL_TEXT = (
    "<longcat_tool_call>add\n"
    "<longcat_arg_key>a</longcat_arg_key>\n<longcat_arg_value>1</longcat_arg_value>\n"
    "<longcat_arg_key>note</longcat_arg_key>\n<longcat_arg_value>x<y</longcat_arg_value>\n"
    '<longcat_arg_key>list</longcat_arg_key>\n<longcat_arg_value>[true, "é"]</longcat_arg_value>\n'
    "</longcat_tool_call>\n"
)


def test_question_with_system_prompt(tokenizer: Tokenizer) -> None:
    messages = [{"role": "system", "content": "be brief"}, QUESTION]
    assert tokenizer.render_chat(messages) == f"<longcat_system>be brief<longcat_user>hi{ON}{OPEN}"


def test_thinking_off_closes_an_empty_block(tokenizer: Tokenizer) -> None:
    expected = f"<longcat_user>hi /think_off {OPEN}\n</longcat_think>\n"
    assert tokenizer.render_chat([QUESTION], enable_thinking=False) == expected


def test_suffix_and_generation_prompt_can_be_left_out(tokenizer: Tokenizer) -> None:
    rendered = tokenizer.render_chat([QUESTION], thinking_suffix=False, add_generation_prompt=False)
    assert rendered == "<longcat_user>hi"


HISTORY: list[dict[str, Any]] = [
    QUESTION,
    {"role": "assistant", "content": None, "reasoning_content": "first", "tool_calls": [CALL]},
    {"role": "tool", "name": "add", "content": "3"},
    {"role": "tool", "tool_call_id": "call_7", "content": [{"type": "text", "text": "4"}]},
    {"role": "assistant", "content": "It is 3.", "reasoning_content": "second"},
    {"role": "user", "content": [{"type": "text", "text": "and "}, {"type": "text", "text": "now?"}]},
    {"role": "assistant", "content": "Wait.", "reasoning_content": "third\n", "tool_calls": [CALL, CALL]},
]


def _history(first: str, second: str) -> str:
    return (
        f"<longcat_user>hi{ON}{OPEN}{first}\n</longcat_think>\n{CALL_TEXT}</longcat_s>"
        "<longcat_observation><longcat_tool_response>add\n3</longcat_tool_response>"
        f"<longcat_tool_response>call_7\n4</longcat_tool_response>{ON}"
        f"{OPEN}{second}\n</longcat_think>\nIt is 3.</longcat_s>"
        f"<longcat_user>and now?{ON}{OPEN}third\n</longcat_think>\nWait.\n{CALL_TEXT}{CALL_TEXT}</longcat_s>"
    )


def test_history_drops_reasoning_of_earlier_rounds(tokenizer: Tokenizer) -> None:
    assert tokenizer.render_chat(HISTORY, add_generation_prompt=False) == _history("", "")


@pytest.mark.parametrize("switch", ["save_reasoning_content", "save_history_reasoning_content"])
def test_history_keeps_reasoning_when_asked(tokenizer: Tokenizer, switch: str) -> None:
    rendered = tokenizer.render_chat(HISTORY, add_generation_prompt=False, **{switch: True})
    assert rendered == _history("first", "second")


def test_tools_are_declared_first(tokenizer: Tokenizer) -> None:
    function = {"name": "add", "description": "Adds.", "parameters": {"type": "object", "title": "<é>"}}
    declared = tokenizer.render_chat([QUESTION], tools=[{"type": "function", "function": function}])
    assert declared == tokenizer.render_chat([QUESTION], tools=[function])
    head, _, tail = declared.partition("</longcat_tool_declare>")
    assert head.startswith("<longcat_tool_declare>\n# Tools\n\n## Tool namespace: function\n\n### Tool name: add\n\n")
    assert 'Description: Adds.\n\nInputSchema: {"type": "object", "title": "<é>"}\n\n' in head
    assert tail == f"<longcat_user>hi{ON}{OPEN}"


def test_arguments_may_be_json_text(tokenizer: Tokenizer) -> None:
    def turn(arguments: object) -> list[dict[str, Any]]:
        return [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}]

    assert tokenizer.render_chat(turn('{"a": [1]}')) == tokenizer.render_chat(turn({"a": [1]}))
    with pytest.raises(TokenizerError, match=r"messages\[0\]: arguments of the call of 'f' are not JSON"):
        tokenizer.render_chat(turn("{"))
    with pytest.raises(TokenizerError, match='arguments of the call of "f" must be a mapping'):
        tokenizer.render_chat(turn("[1]"))


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({"role": "developer", "content": ""}, 'role "developer": must be system, user, assistant or tool'),
        ({"role": "user", "content": [{"type": "image"}]}, 'parts of type "image" are not supported'),
    ],
)
def test_wrong_messages_are_refused(tokenizer: Tokenizer, message: dict[str, Any], error: str) -> None:
    with pytest.raises(TokenizerError, match=error):
        tokenizer.render_chat([message])


def test_a_checkpoints_own_template_is_used(tokenizer: Tokenizer) -> None:
    template = "{% for m in messages %}{{ bos_token }}{{ m.content }}{% endfor %}{{ extra | tojson }}"
    own = Tokenizer(tokenizer._definition, chat_template=template)
    assert own.render_chat([QUESTION], extra={"a": "<"}) == '<longcat_s>hi{"a": "<"}'


def test_without_a_template_the_familys_is_used(tokenizer: Tokenizer) -> None:
    bare = Tokenizer(tokenizer._definition, chat_template=None)
    assert bare.render_chat([QUESTION]) == tokenizer.render_chat([QUESTION])


@pytest.mark.parametrize(
    "template", ["{{ messages.__class__.__mro__ }}", "{{ messages.append(1) }}", "{% if %}", "{{ missing.deep.er }}"]
)
def test_hostile_and_broken_templates_fail_cleanly(tokenizer: Tokenizer, template: str) -> None:
    with pytest.raises(TokenizerError, match="chat template: "):
        Tokenizer(tokenizer._definition, chat_template=template).render_chat([QUESTION])
