"""Grammars allow what the reader reads as a call of the declared tool, and nothing else."""

from __future__ import annotations

import json
import random

import pytest

from homegrown.serve.conversation import Format, Tool
from homegrown.serve.grammar import GrammarCompiler, GrammarError
from homegrown.serve.parse.grammar import chat_grammar, format_grammar

from ..tiny import tiny_tokenizer
from .said import calls

TOKENIZER = tiny_tokenizer()
COMPILER = GrammarCompiler(TOKENIZER)
SCHEMA = {
    "type": "object",
    "properties": {
        "path": {"type": "string"},
        'odd "é"': {"type": "integer"},
        "mode": {"enum": ["r", "w"]},
        "name": {"type": "string", "pattern": "^a+$"},
        "sizes": {"type": "array", "items": {"$ref": "#/$defs/size"}, "maxItems": 2},
        "short": {"type": ["string", "null"], "maxLength": 3},
        "any": {},
    },
    "required": ["path"],
    "additionalProperties": False,
    "$defs": {"size": {"type": "integer", "minimum": 0, "maximum": 9}},
}
TOOL = Tool(name="open.it", strict=True, parameters=SCHEMA)
TEXT = Format()
OPEN, CLOSE = "<longcat_tool_call>", "</longcat_tool_call>"


def grammar(wanted: Format = TEXT, tools: tuple[Tool, ...] = (TOOL,), **options: object) -> str:
    given = {"required": True, "parallel": True, "lead": "", "tags": True, **options}
    return chat_grammar(wanted, tools, **given)  # type: ignore[arg-type]


def accepts(lark: str, text: str) -> bool:
    matcher = COMPILER.matcher(lark)
    for token in TOKENIZER.encode(text):
        if not matcher.allows(token):
            return False
        matcher.advance(token)
    return matcher.accepting


def call(*pairs: tuple[str, str], name: str = "open.it") -> str:
    body = "".join(
        f"<longcat_arg_key>{key}</longcat_arg_key>\n<longcat_arg_value>{value}</longcat_arg_value>\n"
        for key, value in pairs
    )
    return f"{OPEN}{name}\n{body}{CLOSE}\n"


PATH = ("path", 'a\n<b> "')


@pytest.mark.parametrize(
    ("pairs", "good"),
    [
        ([PATH], True),
        ([PATH, ('odd "é"', "5"), ("mode", "w"), ("name", "aa"), ("sizes", "[1, 2]"), ("any", "x")], True),
        ([PATH, ("short", "abc")], True),
        ([PATH, ("sizes", "[]")], True),
        ([], False),
        ([("mode", "r")], False),
        ([PATH, PATH], False),
        ([PATH, ('odd "é"', "five")], False),
        ([PATH, ("mode", "x")], False),
        ([PATH, ("name", "ab")], False),
        ([PATH, ("sizes", "[10]")], False),
        ([PATH, ("short", "abcd")], False),
        ([PATH, ("other", "x")], False),
    ],
)  # fmt: skip
def test_arguments_are_held_to_the_schema(pairs, good):
    assert accepts(grammar(), call(*pairs)) == good
    if good:
        ((name, arguments),) = calls(call(*pairs), tools=(TOOL,))
        assert (name, list(arguments)) == ("open.it", [key for key, _ in pairs])


def test_required():
    lark = grammar()
    assert accepts(lark, call(PATH) * 2)
    assert not accepts(lark, "text")
    assert not accepts(lark, "")
    assert not accepts(lark, call(PATH, name="open"))
    assert not accepts(grammar(parallel=False), call(PATH) * 2)
    assert accepts(grammar(lead="\n"), "\n" + call(PATH))


def test_several_tools():
    lark = grammar(tools=(TOOL, Tool(name="stop", parameters={"type": "object", "additionalProperties": False})))
    assert accepts(lark, call(name="stop") + call(PATH))
    assert not accepts(lark, call(PATH, name="stop"))


def test_a_tool_without_a_schema_takes_anything():
    lark = grammar(tools=(Tool(name="f"),))
    assert accepts(lark, call(name="f"))
    assert accepts(lark, call(("some key", "x"), ("b", "[1"), name="f"))


def test_strict_tools_leave_text_free():
    lark = grammar(required=False)
    assert all(accepts(lark, text) for text in ("", "hi <b>\n", call(PATH), "hi\n" + call(PATH) * 2))
    assert not accepts(lark, call())
    assert grammar(required=False, tools=(Tool(name="f"),)) == ""


def test_json_calls():
    lark = grammar(tags=False)
    arguments = {"path": "a", "mode": "r", "sizes": [1]}
    text = f"{OPEN}{json.dumps({'name': 'open.it', 'arguments': arguments})}{CLOSE}\n"
    assert accepts(lark, text * 2)
    assert calls(text, tools=(TOOL,)) == [("open.it", arguments)]
    assert not accepts(lark, text.replace('"r"', '"x"'))


@pytest.mark.parametrize(
    ("wanted", "good", "bad"),
    [
        (Format(kind="json"), '{"a": [1]}', "[1]"),
        (Format(kind="schema", schema={"type": "integer"}), "12", '"a"'),
        (Format(kind="regex", pattern="[ab]+"), "abba", "abc"),
        (Format(kind="lark", pattern='start: "x" | "y"'), "y", "z"),
    ],
)
def test_formats(wanted, good, bad):
    assert accepts(format_grammar(wanted), good)
    assert not accepts(format_grammar(wanted), bad)
    lark = grammar(wanted, (), required=False)
    assert accepts(lark, good)
    assert not accepts(lark, bad)
    if wanted.kind != "lark":
        both = grammar(wanted, required=False, lead="\n")
        assert accepts(both, "\n" + good)
        assert accepts(both, "\n" + call(PATH))
        assert not accepts(both, "\n" + bad)


def test_plain_text_has_no_grammar():
    assert format_grammar(Format()) == ""
    assert grammar(tools=(), required=False) == ""


@pytest.mark.parametrize(
    ("wanted", "tool", "message"),
    [
        (Format(kind="lark", pattern='start: "x"'), TOOL, "Lark grammar cannot be combined with tools"),
        (Format(), Tool(name="f", parameters={"properties": {"a": False}}), ""),
        (Format(), Tool(name="f", parameters={"properties": {"a": {"type": "string", "pattern": "("}}}), "regex|parse"),
    ],
)
def test_what_cannot_be(wanted, tool, message):
    if not message:
        assert accepts(grammar(wanted, (tool,)), call(name="f"))
        return
    with pytest.raises(GrammarError, match=message):
        COMPILER.matcher(grammar(wanted, (tool,)))


@pytest.mark.parametrize("tags", [True, False])
def test_whatever_the_grammar_lets_pass_is_a_call(tags):
    """Walk at random through what is allowed; where it may end the reader finds calls with what is required."""
    drawn = random.Random(0)
    lark = grammar(tags=tags)
    ends = [TOKENIZER.token_id(tag) for tag in ("</longcat_arg_value>", CLOSE, '"', "}", "]")]
    found = 0
    for _ in range(6):
        matcher, tokens = COMPILER.matcher(lark), list[int]()
        for _ in range(300):
            bits = matcher.bits()
            allowed = [token for token in range(TOKENIZER.vocab_size) if bits[token // 8] >> token % 8 & 1]
            closing = [token for token in allowed if token in ends]
            token = drawn.choice(closing if closing and drawn.random() < 0.4 else allowed)
            if token == TOKENIZER.eos_id:
                break
            matcher.advance(token)
            tokens.append(token)
        if matcher.accepting:
            made = calls(TOKENIZER.decode(tokens), tools=(TOOL,))
            assert made
            assert all(name == "open.it" and "path" in arguments for name, arguments in made)
            found += 1
    assert found >= 2
