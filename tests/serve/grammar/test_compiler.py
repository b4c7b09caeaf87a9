"""Grammars are compiled once and within bounds; what is wrong with one is said in a sentence."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest

from homegrown.serve.grammar import (
    GrammarCompiler,
    GrammarError,
    Matcher,
    check_grammar,
    compiler,
    grammar_from_regex,
    grammar_from_schema,
    regex_term,
    schema_rule,
)

from ..tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def allowed(matcher: Matcher) -> list[int]:
    return np.flatnonzero(np.unpackbits(np.frombuffer(matcher.bits(), np.uint8), bitorder="little")).tolist()


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def products(count: int) -> dict[str, Any]:
    """Whose normal form has 4^count branches."""
    objects = [
        [
            {"type": "object", "properties": {f"p{i}{j}": {"type": "integer"}}, "required": [f"p{i}{j}"]}
            for j in range(4)
        ]
        for i in range(count)
    ]
    return {"allOf": [{"anyOf": options} for options in objects]}


HOSTILE = {
    "large text": 'start: "' + "x" * 300_000 + '"',
    "deep schema": grammar_from_schema(nested(300)),
    "deep parentheses": "start: " + "(" * 20_000 + '"a"' + ")" * 20_000,
    "deep regex": "start: /" + "(" * 20_000 + "a" + ")" * 20_000 + "/",
    "six-fold product": grammar_from_schema(products(6)),
    "eight-fold product": grammar_from_schema(products(8)),
    "many properties": grammar_from_schema({"type": "object", "properties": {f"p{i}": {} for i in range(20_000)}}),
    "intersection": "start: T\nT: /.*a.{50}/ & /.*b.{50}/ & /.*c.{50}/",
    "multiple": grammar_from_schema({"type": "integer", "multipleOf": 1_234_567_891}),
    "remote reference": grammar_from_schema({"$ref": "http://127.0.0.1:9/schema.json"}),
    "file reference": grammar_from_schema({"$ref": "file:///etc/passwd"}),
    "circular reference": grammar_from_schema({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
    "surrogate": 'start: "\ud800"',
    "surrogate in a schema": grammar_from_schema({"const": "\ud800"}),
    "syntax": "start: (((",
    "no start": 'begin: "a"',
    "unknown special token": "start: <longcat_nothing>",
    "unknown keyword": grammar_from_schema({"type": "array", "uniqueItems": True}),
    "unknown type": grammar_from_schema({"type": "nonsense"}),
    "look-around": grammar_from_regex("a(?=b)"),
    "half a regex": grammar_from_regex("a{2"),
    "empty": "",
}


@pytest.mark.parametrize("lark", HOSTILE.values(), ids=HOSTILE)
def test_what_cannot_be_used_is_refused_in_a_sentence(lark: str) -> None:
    start = time.perf_counter()
    with pytest.raises(GrammarError, match=r"^grammar: ") as caught:
        check_grammar(TOKENIZER, lark)
    assert time.perf_counter() - start < 10
    assert "\n" not in str(caught.value)
    assert "backtrace" not in str(caught.value)
    assert len(str(caught.value)) < 400


HARMLESS = {
    "huge repetition": "start: /((a{1,1000}){1,1000}){1,1000}/",
    "exponential automaton": "start: /(a|b)*a(a|b){100}/",
    "long array": grammar_from_schema({"type": "array", "items": {"type": "integer"}, "minItems": 10**9}),
    "long text": grammar_from_schema({"type": "string", "minLength": 10**9}),
    "recursion": grammar_from_schema({"type": "array", "items": {"$ref": "#"}}),
    "doubling": grammar_from_schema(
        {"$defs": {f"d{i}": {"prefixItems": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(20)} | {"d20": {}},
         "$ref": "#/$defs/d0"}
    ),
    "ambiguity": 'start: s\ns: s s | "a" | ""',
    "many words": grammar_from_schema({"enum": [f"value {i}" for i in range(5000)]}),
}  # fmt: skip


@pytest.mark.parametrize("lark", HARMLESS.values(), ids=HARMLESS)
def test_what_looks_bad_is_followed_or_given_up_quickly(lark: str) -> None:
    matcher, rng = GrammarCompiler(TOKENIZER).matcher(lark), random.Random(0)
    start = time.perf_counter()
    try:
        for _ in range(40):
            matcher.advance(rng.choice(allowed(matcher)))
    except (GrammarError, IndexError):
        pass
    assert time.perf_counter() - start < 10


def test_compiled_once_and_kept_in_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    inner = compiler.LLMatcher
    monkeypatch.setattr(
        compiler, "LLMatcher", lambda trie, lark, **rest: made.append(lark) or inner(trie, lark, **rest)
    )
    grammars = GrammarCompiler(TOKENIZER, kept=2)
    a, b, c = (f'start: "{char}"' for char in "abc")
    for lark in (a, b, a, a, c, a, b):  # c pushes b out, not a
        grammars.matcher(lark)
    assert made == [a, b, c, b]


def test_matchers_of_a_grammar_go_their_own_ways() -> None:
    grammars = GrammarCompiler(TOKENIZER)
    one, other = (grammars.begin('start: "a" "b"').result() for _ in range(2))
    one.advance(TOKENIZER.encode("a")[0])
    assert allowed(one) == TOKENIZER.encode("b")
    assert allowed(other) == TOKENIZER.encode("a")
    assert other.allows(TOKENIZER.encode("a")[0])
    assert not other.allows(TOKENIZER.encode("b")[0])


def test_a_worn_out_grammar_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matchers share a lexer that holds so many states; hundreds of answers meet more than one alone."""
    tight = compiler.LLParserLimits(max_lexer_states=600, verbose_errors=False)
    monkeypatch.setattr(compiler, "LIMITS", tight)
    grammars, rng, made = GrammarCompiler(TOKENIZER), random.Random(0), []
    inner = compiler.LLMatcher
    monkeypatch.setattr(compiler, "LLMatcher", lambda *args, **rest: made.append(args) or inner(*args, **rest))
    for _ in range(60):
        matcher = grammars.matcher("start: /(a|b)*a(a|b){40}/")
        for _ in range(30):
            matcher.advance(rng.choice(allowed(matcher)))
    assert 2 <= len(made) < 20


def test_an_answer_that_wears_it_out_alone_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "LIMITS", compiler.LLParserLimits(max_lexer_states=60, verbose_errors=False))
    matcher, rng = GrammarCompiler(TOKENIZER).matcher("start: /(a|b)*a(a|b){40}/"), random.Random(0)
    with pytest.raises(GrammarError, match="the answer cannot go on: lexer error: too many states"):
        for _ in range(200):
            matcher.advance(rng.choice(allowed(matcher)))


def test_several_end_tokens() -> None:
    user = TOKENIZER.token_id("<longcat_user>")
    matcher = GrammarCompiler(TOKENIZER, ends=(TOKENIZER.eos_id, user)).matcher('start: "a"?')
    assert allowed(matcher) == sorted([TOKENIZER.eos_id, user, *TOKENIZER.encode("a")])
    assert matcher.accepting


def test_a_slow_compilation_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    grammars = GrammarCompiler(TOKENIZER)
    monkeypatch.setattr(compiler, "SECONDS", 0.05)
    monkeypatch.setattr(grammars, "_matcher", lambda lark: time.sleep(0.3))
    with pytest.raises(GrammarError, match=r"not compiled within 0.05 s"):
        grammars.matcher('start: "a"')


def test_forms() -> None:
    assert schema_rule(True).startswith("%json {")
    tricky = {"const": 'x\n// "}\nstart: "é'}
    matcher = GrammarCompiler(TOKENIZER).matcher("start: " + schema_rule(tricky) + regex_term("[/]\n"))
    for token in TOKENIZER.encode(json.dumps(tricky["const"], ensure_ascii=False) + "/\n"):
        matcher.advance(token)
    assert matcher.accepting


def test_lenient_leaves_out_what_a_grammar_cannot_say() -> None:
    schema = {"type": "array", "uniqueItems": True, "not": {"const": [1]}, "x-guidance": {"lenient": False}}
    check_grammar(TOKENIZER, grammar_from_schema(schema, lenient=True))
    with pytest.raises(GrammarError, match=r'Unimplemented keys: \["not", "uniqueItems"\]'):
        check_grammar(TOKENIZER, grammar_from_schema({**schema, "x-guidance": {"lenient": True}}))


def test_one_of_is_any_of() -> None:
    check_grammar(TOKENIZER, grammar_from_schema({"oneOf": [{"type": "integer"}, {"type": "number"}]}))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: grammar_from_schema(False), "it matches nothing"),
        (lambda: grammar_from_schema("{}"), "must be an object or a boolean, not str"),
        (lambda: grammar_from_schema({"maximum": float("nan")}), "schema: not JSON"),
        (lambda: grammar_from_schema({"const": b"x"}), "schema: not JSON"),
        (lambda: grammar_from_schema(nested(100_000)), "schema: nested too deeply"),
        (lambda: grammar_from_regex(""), "regex: empty"),
    ],
)
def test_forms_refuse(make: Any, message: str) -> None:
    with pytest.raises(GrammarError, match=message):
        make()


def test_blanks_are_bounded() -> None:
    matcher = GrammarCompiler(TOKENIZER).matcher(grammar_from_schema({"type": "object", "required": ["a"]}))
    matcher.advance(TOKENIZER.encode("{")[0])
    blanks = 0
    while matcher.allows(TOKENIZER.encode("\n")[0]):
        matcher.advance(TOKENIZER.encode("\n")[0])
        blanks += 1
    assert 16 <= blanks <= 64


def test_no_torch() -> None:
    code = "import sys, homegrown.serve.grammar; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
