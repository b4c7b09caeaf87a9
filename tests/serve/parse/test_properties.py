"""Whatever a model writes, however it arrives and wherever it breaks off."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homegrown.serve.events import Text
from homegrown.serve.parse import TAGS, Reader

from .said import TOOLS, marked, read

OPEN, CLOSE = "<longcat_tool_call>", "</longcat_tool_call>"
WORDS = [
    *TAGS, *TAGS, "\n", "\n\n", " ", "read", "list-files", "functions.read", "unknown", "path", "note", "count",
    "items", "null", "nul", "True", "12", "-1.5e3", "0", '"', "\\", "\\n", "\\u00e9", "\\ud83d", "\\ude00", "\\q", "{",
    "}", "[", "]", ":", ", ", "(", ")", '{"name": "read", "arguments": {', '"arguments": "', '"path": "', "é🙂", "<",
    "</", "<longcat_", "text", "'", "\t", "\x00",
]  # fmt: skip
SOUP = st.lists(st.sampled_from(WORDS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=3)).map("".join)
VALUES = ["null", "5", "True", '["a", 1]', "{'a': (1,)}", "[1, 2", "x", "two\nlines\n", ' "q"\\ ', ""]
KEYS = ["path", "note", "either", "count", "items", "flag", "other"]
OBJECTS = ['{"path": "a\\n\\u00e9", "count": [1, 2.5, {"a": null}]}', "{}", '{"a": tru']


@st.composite
def pairs(draw: st.DrawFn) -> str:
    """Keys and values in tags, some of which are not closed."""
    return "".join(
        f"<longcat_arg_key>{key}{draw(st.sampled_from(['</longcat_arg_key>', '']))}\n<longcat_arg_value>"
        f"{draw(st.sampled_from(VALUES))}{draw(st.sampled_from(['</longcat_arg_value>', '']))}\n"
        for key in draw(st.lists(st.sampled_from(KEYS), max_size=4))
    )


@st.composite
def outputs(draw: st.DrawFn) -> str:
    """Texts that look like answers: well formed mostly, and with the slips that models make."""
    parts = []
    if draw(st.booleans()):
        parts.append(draw(st.sampled_from(["", "<longcat_think>\n"])) + "hm\nhm\n</longcat_think>\n")
    for _ in range(draw(st.integers(0, 3))):
        arguments, tagged = draw(st.sampled_from(OBJECTS)), draw(pairs())
        forms = [
            "some text\n",
            f"{OPEN}read\n{tagged}",
            f"{OPEN}functions.read\n{tagged}",
            f"{OPEN}read({arguments})",
            f"{OPEN}read\n<longcat_arg_key>{arguments}</longcat_arg_key>\n",
            f'{OPEN}{{"name": "read", "arguments": {arguments}}}',
            f'{OPEN}{{"arguments": {arguments}, "name": "read"}}',
            f'{OPEN}{{"name": "read", "arguments": {json.dumps(arguments)}}}',
            f"{OPEN}nothing\n{tagged}",
        ]
        parts.append(draw(st.sampled_from(forms)))
        parts.append(draw(st.sampled_from([f"{CLOSE}\n", CLOSE, ""])))
    return "".join(parts)


@st.composite
def splits(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> list[str]:
    """A text in pieces; some are empty."""
    text = draw(texts)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@pytest.mark.parametrize("texts", [SOUP, outputs()], ids=["soup", "answers"])
@pytest.mark.parametrize("form", [marked, str], ids=["marks", "spelled"])
def test_any_split_gives_the_same_events(texts, form):
    @settings(max_examples=150, deadline=None)
    @given(splits(texts.map(form)), st.booleans(), st.booleans())
    def check(pieces, thinking, cut):
        whole = "".join(pieces)
        expected = read([whole], thinking, cut)
        assert read(pieces, thinking, cut) == expected
        assert read(list(whole), thinking, cut) == expected

    check()


@settings(max_examples=60, deadline=None)
@given(outputs(), st.booleans())
def test_any_truncation_has_a_valid_ending(text, thinking):
    """`read` checks that calls are ended and that their arguments are objects."""
    text = marked(text)
    for end in range(len(text)):
        read([text[:end]], thinking, cut=True)
        read([text[:end]], thinking)


@settings(max_examples=200, deadline=None)
@given(SOUP | outputs(), st.booleans())
def test_what_was_said_stands(text, thinking):
    """What is pushed out early is never taken back by what follows."""
    whole = "".join(value if kind != "call" else value[1] for kind, value in read([text], thinking))
    streamed = "".join(getattr(event, "text", "") for event in Reader(TOOLS, thinking).push(text))
    assert whole.startswith(streamed)


@settings(max_examples=200, deadline=None)
@given(SOUP | outputs())
def test_no_text_is_lost_without_tools(text):
    """Where nothing may be called, tool tags are text: all of it but thinking tags and line ends at the borders."""
    said = "".join(value for _, value in read([text], tools=()))
    assert re.sub("</?longcat_think>|\n", "", said) == re.sub("</?longcat_think>|\n", "", text)


@pytest.mark.parametrize("tag", TAGS)
def test_no_half_tag_is_said(tag):
    """What may become a tag is held back, and no more than that."""
    for end in range(1, len(tag)):
        reader = Reader(TOOLS)
        assert reader.push(f"a<{tag[:end]}") == [Text(0, "a<")]
        assert reader.push("b") == [Text(0, f"{tag[:end]}b")]
