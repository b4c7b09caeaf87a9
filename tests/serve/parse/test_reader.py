"""Answers in the forms of the family, and in those that were seen in the field."""

from __future__ import annotations

import json
import time

import pytest

from homegrown.serve.conversation import Tool
from homegrown.serve.events import CallArguments, CallBegun
from homegrown.serve.parse import MARKS, Reader

from .said import calls, marked, read

OPEN, CLOSE = "<longcat_tool_call>", "</longcat_tool_call>"
KEY, END_KEY = "<longcat_arg_key>", "</longcat_arg_key>"
VALUE, END_VALUE = "<longcat_arg_value>", "</longcat_arg_value>"


def pair(key: str, value: str) -> str:
    return f"{KEY}{key}{END_KEY}\n{VALUE}{value}{END_VALUE}\n"


def xml(name: str, **values: str) -> str:
    return f"{OPEN}{name}\n{''.join(pair(key, value) for key, value in values.items())}{CLOSE}\n"


@pytest.mark.parametrize(
    ("text", "thinking", "said"),
    [
        ("hm\n\nhm\n</longcat_think>\nHi.\n", True, [("reasoning", "hm\n\nhm"), ("text", "Hi.\n")]),
        ("<longcat_think>\nhm\n</longcat_think>\nHi.", True, [("reasoning", "hm"), ("text", "Hi.")]),
        ("<longcat_think>\nhm\n</longcat_think>\nHi.", False, [("reasoning", "hm"), ("text", "Hi.")]),
        ("\n</longcat_think>\nHi.", True, [("text", "Hi.")]),
        ("</longcat_think>\nHi.", False, [("text", "Hi.")]),
        ("Hi.", False, [("text", "Hi.")]),
        ("never closed\n", True, [("reasoning", "never closed")]),
        ("a <longcat_think>b</longcat_think> c", False, [("text", "a "), ("reasoning", "b"), ("text", " c")]),
        (f"so {OPEN}read\n{CLOSE}", True, [("reasoning", f"so {OPEN}read\n{CLOSE}")]),
        ("", True, []),
        ("\n\n", False, []),
    ],
)
def test_thinking(text, thinking, said):
    assert read([text], thinking) == said
    assert read([marked(text)], thinking, spelled=()) == said


def test_calls_behind_text():
    text = f"Let me see.\n\n{xml('read', path='a.py', count='3')}{xml('list-files')}Done"
    assert read([text]) == [
        ("text", "Let me see."),
        ("call", ("read", '{"path": "a.py", "count": 3}')),
        ("call", ("list-files", "{}")),
        ("text", "Done"),
    ]


def test_a_spelled_tag_is_text_where_tags_are_tokens():
    """A tool writes a file about chat templates."""
    content = f"{VALUE}x{END_VALUE}{CLOSE}"
    text = marked(f"{OPEN}read\n{KEY}path{END_KEY}\n{VALUE}") + content + marked(f"{END_VALUE}\n{CLOSE}")
    assert read([text], spelled=()) == [("call", ("read", json.dumps({"path": content})))]


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("path", "5", "5"),
        ("path", ' "quoted"\n\ttab \\ é\u2028\x07', ' "quoted"\n\ttab \\ é\u2028\x07'),
        ("path", "", ""),
        ("path", "null", "null"),
        ("note", "null", None),
        ("note", "nullable", "nullable"),
        ("note", "nul", "nul"),
        ("note", "5", "5"),
        ("either", "5", "5"),
        ("mode", "r", "r"),
        ("count", "5", 5),
        ("count", " 5\n", 5),
        ("count", "five", "five"),
        ("count", "007", "007"),
        ("items", '["a", "b"]', ["a", "b"]),
        ("items", "['a', 'b']", ["a", "b"]),
        ("items", '["a", "b",]', ["a", "b"]),
        ("items", "('a', None)", ["a", None]),
        ("items", "[1, 2", "[1, 2"),
        ("items", "{1, 2}", "{1, 2}"),
        ("items", "[" * 5000, "[" * 5000),
        ("flag", "true", True),
        ("flag", "True", True),
        ("unknown", "NaN", "NaN"),
        ("unknown", "1e400", "1e400"),
        ("unknown", "9" * 5000, "9" * 5000),
        ("unknown", "[" * 500 + "]" * 500, "[" * 500 + "]" * 500),
        ("unknown", "some text", "some text"),
        ("unknown", '{"a": "\\ud83d\\ude00 \\ud83d"}', {"a": "😀 \ufffd"}),
        ("unknown", r"'\ud800'", "\ufffd"),
    ],
)
def test_values_are_typed_by_the_schema(key, text, value):
    assert calls(xml("read", **{key: text})) == [("read", {key: value})]


JSON_FORM = [
    ('{"name": "read", "arguments": {"path": "a"}}', {"path": "a"}),
    ('\n{"name": "functions.read", "arguments": {"path": "a"}}\n', {"path": "a"}),
    ('{"arguments": {"path": "a"}, "name": "read"}', {"path": "a"}),
    ('{"name": "read", "parameters": {"path": "a"}, "id": [1]}', {"path": "a"}),
    ('{"name": "read", "arguments": "{\\"path\\": \\"a\\"}"}', {"path": "a"}),
    ('{"name": "read", "arguments": null}', {}),
    ('{"name": "read"}', {}),
    ('{"name": "read", "arguments": {"a": [1, {"b": []}], "c": {}}}', {"a": [1, {"b": []}], "c": {}}),
    ('{"name": "read", "arguments": {"a": "1\n2", "b": "\\d"}}', {"a": "1\n2", "b": "\\d"}),
    ('{"name": "read", "arguments": {"a": True, "b": [1,],},}', {"a": True, "b": [1]}),
    ('{"name": "read", "arguments": {"a": 1, "b": oops}}', {"a": 1}),
    ('{"name": "read", "arguments": {"a": 1 "b": 2}}', {"a": 1}),
    ('{"name": "read", "arguments": {"a": "open', {"a": "open"}),
]


@pytest.mark.parametrize(("text", "arguments"), JSON_FORM)
def test_json_calls(text, arguments):
    one = [("read", arguments)]
    assert calls(f"{OPEN}{text}{CLOSE}") == one
    assert calls(f"{OPEN}{text}{CLOSE}\n{OPEN}{text}{CLOSE}\n") == one * 2
    assert calls(f"{OPEN}{text}") == one
    assert calls(f"{OPEN}{text}{OPEN}{text}") == one * 2


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        (f"functions.read\n{pair('path', 'a')}", {"path": "a"}),
        (f"function.read\n{pair('path', 'a')}", {"path": "a"}),
        ('read({"path": "a"})', {"path": "a"}),
        ('functions.read({"path": "a"})\n', {"path": "a"}),
        ("read()", {}),
        ('read\n{"path": "a"}\n', {"path": "a"}),
        (f'read\n{KEY}{{"path": "a", "count": 2}}{END_KEY}\n', {"path": "a", "count": 2}),
        (f'read\n{KEY}{{"path": "a"}}', {"path": "a"}),
        (f"read\n{KEY}path\n{VALUE}a{END_VALUE}\n", {"path": "a"}),
        (f"read\n{KEY}path{END_KEY}{VALUE}a\n", {"path": "a"}),
        (f"read\n{KEY}path{END_KEY}\n{VALUE}a\n{pair('count', '1')}", {"path": "a", "count": 1}),
        (f"read\n{KEY}count{END_KEY}\n{VALUE}1\n", {"count": 1}),
        (f"read\n{KEY}path{END_KEY}\na{END_VALUE}\n", {"path": "a"}),
        (f"read\n{pair('path', 'a')}{pair('path', 'b')}", {"path": "a"}),
        (f"read\n{KEY}lost{END_KEY}\n{pair('path', 'a')}", {"path": "a"}),
        (f"read\n{pair('path', 'a')}stray{pair('count', '1')}", {"path": "a", "count": 1}),
        ("read", {}),
    ],
)
def test_field_reports(text, arguments):
    one = [("read", arguments)]
    assert calls(f"{OPEN}{text}{CLOSE}\n") == one
    assert calls(f"{OPEN}{text}") == one  # its closing tag is missing too
    if text != "read":
        assert calls(f"{OPEN}{text}{OPEN}{text}{CLOSE}") == one * 2


@pytest.mark.parametrize(
    "text",
    [
        f"{OPEN}other\n{pair('path', 'a')}{CLOSE}",
        f'{OPEN}{{"name": "other", "arguments": {{}}}}{CLOSE}',
        f'{OPEN}{{"nome": "read"}}{CLOSE}',
        f'{OPEN}{{"name": "read", oops}}{CLOSE}',
        f"{OPEN}read me, please{CLOSE}",
        f"{OPEN}read(path='a'){CLOSE}",
        f"{OPEN}{CLOSE}",
        f"{OPEN}readread\n{CLOSE}",
        f"{OPEN}{'read' * 1000}",
        f"{KEY}path{END_KEY}",
        CLOSE,
    ],
)
def test_what_is_no_call_is_text_verbatim(text):
    assert read([f"so\n{text}\nend"]) == [("text", f"so\n{text}\nend")]
    assert read([marked(f"so\n{text}\nend")], spelled=()) == [("text", f"so\n{text}\nend")]


def test_a_tool_may_be_called_like_a_namespace():
    assert calls(f"{OPEN}function.odd\n{CLOSE}") == [("function.odd", {})]


def test_a_call_behind_a_broken_one_counts():
    assert read([f"{OPEN}other\n{OPEN}read\n{CLOSE}"]) == [("text", f"{OPEN}other"), ("call", ("read", "{}"))]


def test_text_behind_a_call_that_is_not_closed():
    said = read([f'{OPEN}read({{"path": "a"}})\nThat is all.'])
    assert said == [("call", ("read", '{"path": "a"}')), ("text", "That is all.")]


def test_without_calls_tags_are_text():
    text = f"see:\n{xml('read', path='a')}"
    assert read([text], calls=False) == [("text", text)]


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        (f"{OPEN}read\n{pair('path', 'a')}{KEY}count{END_KEY}\n{VALUE}1", '{"path": "a"}'),
        (f"{OPEN}read\n{KEY}path{END_KEY}\n{VALUE}ab", '{"path": "ab"}'),
        (f"{OPEN}read\n{KEY}pa", "{}"),
        (f'{OPEN}read({{"a": [1, 2', '{"a": [1]}'),
        (f'{OPEN}read({{"a": "x\\', '{"a": "x"}'),
        (f'{OPEN}read({{"a": "x\\u00e', '{"a": "x"}'),
        (f'{OPEN}read({{"a": 1, "b":', '{"a": 1}'),
        (f'{OPEN}read({{"a": tru', "{}"),
    ],
)
def test_truncated_calls(text, arguments):
    assert read([text], cut=True) == [("call", ("read", arguments))]


def test_a_name_that_may_go_on_is_not_called():
    assert read([f"{OPEN}read"], cut=True) == [("text", f"{OPEN}read")]


def test_arguments_stream_as_soon_as_they_are_determined():
    schema = {"properties": {"s": {"type": "string"}, "n": {"type": "number"}}}
    reader = Reader((Tool(name="f", parameters=schema),))
    assert reader.push(marked(f"{OPEN}f\n")) == []
    assert reader.push(marked(KEY)) == [CallBegun(0, 0, "f")]
    assert reader.push(marked(f"s{END_KEY}\n")) == []
    assert reader.push(marked(VALUE)) == [CallArguments(0, '{"s": "')]
    assert reader.push('a"') == [CallArguments(0, 'a\\"')]
    assert reader.push("b\n") == [CallArguments(0, "b")]
    assert reader.push("c") == [CallArguments(0, "\\nc")]
    assert reader.push(marked(END_VALUE)) == [CallArguments(0, '"')]
    assert reader.push(marked(f"{KEY}n{END_KEY}{VALUE}")) == []
    assert reader.push("12") == []
    assert reader.push(MARKS[END_VALUE]) == [CallArguments(0, ', "n": 12')]
    assert (reader.where, reader.calls) == ("call", 1)


def test_json_arguments_stream():
    reader = Reader((Tool(name="f"),))
    assert reader.push(marked(f'{OPEN}{{"name": "f", "arg')) == []
    assert reader.push('uments": {"a"') == [CallBegun(0, 0, "f"), CallArguments(0, "{")]
    assert reader.push(': "x') == [CallArguments(0, '"a": "x')]
    assert reader.push("\\") == []
    assert reader.push("n") == [CallArguments(0, "\\n")]
    assert reader.push('", "n": 1') == [CallArguments(0, '"')]
    assert reader.push("2}") == [CallArguments(0, ', "n": 12}')]


STARTS = [
    "",
    f"{OPEN}read\n{KEY}path{END_KEY}{VALUE}",
    f"{OPEN}read\n{KEY}items{END_KEY}{VALUE}",
    f'{OPEN}{{"name": "read", "arguments": {{"path": "',
    f"{OPEN}read\n{KEY}",
    f'{OPEN}{{"arguments": {{"a": [',
]


@pytest.mark.parametrize("piece", ["x", "\n", "<", '"', "\\", "[", "1", "</longcat"])
@pytest.mark.parametrize("start", STARTS)
def test_time_grows_with_the_length(start, piece):
    """A text that is sixteen times as long: nowhere near 256 times the time."""

    def seconds(count: int) -> float:
        reader = Reader((Tool(name="read", parameters={"properties": {"path": {"type": "string"}}}),))
        began = time.process_time()
        reader.push(start)
        for _ in range(count):
            reader.push(piece)
        reader.finish()
        return time.process_time() - began

    short = min(seconds(500) for _ in range(3))
    assert seconds(8000) < 80 * short + 0.02
