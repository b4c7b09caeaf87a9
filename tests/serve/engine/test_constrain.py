"""Answers follow their grammars, whatever the model would rather say."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch

from homegrown.serve.engine.choice import Choice
from homegrown.serve.engine.choose import Turn, choose
from homegrown.serve.engine.constrain import Constraint
from homegrown.serve.grammar import GrammarCompiler, GrammarError, grammar_from_regex, grammar_from_schema
from homegrown.serve.messages import Grammar, Request, Sampling

from ..tiny import tiny_tokenizer
from .choosing import drafted, plain, talk

TOKENIZER = tiny_tokenizer()
EOS = TOKENIZER.eos_id
V = TOKENIZER.vocab_size + 20
"""More embedding rows than tokens, as published models have."""
COMPILER = GrammarCompiler(TOKENIZER)


def constrained(lark: str, after: int = -1, **fields: Any) -> Choice:
    sampling = Sampling(**{"max_tokens": 400, "grammar": Grammar(lark=lark, after=after), **fields})
    return Choice(Request(id="r", prompt=[1], sampling=sampling), V, (EOS,), COMPILER.matcher(lark))


def text(state: Choice) -> str:
    assert all(token < TOKENIZER.vocab_size for token in state.tokens), "no surplus id"
    assert (state.finish, state.tokens[-1]) == ("stop", EOS)
    return TOKENIZER.decode(state.tokens[:-1])


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["cat", "dog é"]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    },
    "required": ["name", "age", "kind", "tags"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_json_of_a_schema(seed: int, temperature: float) -> None:
    state = constrained(grammar_from_schema(SCHEMA), temperature=temperature, seed=seed)
    state.request.prompt.append(seed)  # another text
    value = json.loads(text_of(state))
    assert list(value) == ["name", "age", "kind", "tags"]
    assert isinstance(value["name"], str)
    assert len(value["name"]) <= 8
    assert 0 <= value["age"] <= 150
    assert value["kind"] in ("cat", "dog é")
    assert len(value["tags"]) <= 3
    assert all(isinstance(tag, bool) for tag in value["tags"])


def text_of(state: Choice) -> str:
    plain(talk(V), state)
    return text(state)


def test_regex() -> None:
    for seed in range(5):
        answer = text_of(constrained(grammar_from_regex(r"^[a-c]{2,5}\d/x$"), seed=seed))
        assert re.fullmatch(r"[a-c]{2,5}[0-9]/x", answer)


def test_special_tokens_by_name_and_never_by_spelling() -> None:
    call = TOKENIZER.token_id("<longcat_tool_call>")
    close = TOKENIZER.token_id("</longcat_tool_call>")
    state = constrained('start: <longcat_tool_call> "f(" /[0-9]/ ")" </longcat_tool_call>')
    assert re.fullmatch(r"<longcat_tool_call>f\(\d\)</longcat_tool_call>", text_of(state))
    assert (state.tokens[0], state.tokens[-2]) == (call, close)
    spelled = constrained('start: "<longcat_tool_call>"')
    assert text_of(spelled) == "<longcat_tool_call>"
    assert call not in spelled.tokens
    free = Constraint(COMPILER.matcher(r"start: /(.|\n)*/")).allowed(V)
    assert free[EOS]
    assert not any(free[token] for token in TOKENIZER.added_tokens.values() if token != EOS)


def test_the_end_may_come_exactly_where_the_grammar_accepts() -> None:
    constraint = Constraint(COMPILER.matcher('start: "a" "b"?'))
    a, b = (TOKENIZER.encode(char)[0] for char in "ab")
    assert constraint.allowed(V).nonzero().flatten().tolist() == [a]
    constraint.advance(a)
    assert constraint.allowed(V).nonzero().flatten().tolist() == sorted([EOS, b])
    constraint.advance(b)
    assert constraint.allowed(V).nonzero().flatten().tolist() == [EOS]


def test_the_end_of_the_grammar_is_the_end() -> None:
    """Whatever `ignore_eos` and `min_tokens` say: nothing else is allowed there."""
    lark = 'start: "a" "b" "c"'
    for fields in ({"ignore_eos": True}, {"min_tokens": 50}, {"ignore_eos": True, "min_tokens": 50}):
        assert text_of(constrained(lark, **fields)) == "abc"
    assert len(text_of(constrained("start: /[ab]*/", min_tokens=10, logit_bias={EOS: 100.0}))) >= 10


def test_free_until_thinking_is_over() -> None:
    close = TOKENIZER.token_id("</longcat_think>")
    bias = {EOS: 20.0, close: 8.0}  # eager to end before it has begun
    states = [constrained('start: "yes" | "no"', close, seed=seed, logit_bias=bias) for seed in range(8)]
    lengths = set()
    for state in states:
        tokens = plain(talk(V), state)
        thought = tokens.index(close)
        assert TOKENIZER.decode(tokens[thought + 1 :]) in ("yes</longcat_s>", "no</longcat_s>")
        assert EOS not in tokens[:-1]
        lengths.add(thought)
    assert len(lengths) > 1, "something was thought"


def test_a_grammar_sees_drafts_one_after_another() -> None:
    model = talk(V)
    lark = grammar_from_schema(SCHEMA)
    guess = TOKENIZER.encode('{"name')
    for seed in range(4):
        without = plain(model, constrained(lark, seed=seed, presence_penalty=0.5))
        state = constrained(lark, seed=seed, presence_penalty=0.5)
        # Guesses: now the right token, now one that the grammar forbids.
        tokens, accepted = drafted(model, state, lambda ctx, of=without: [*of, *guess][(len(ctx) - 1) * 6 // 7], 3)
        assert tokens == without
        assert 0 < accepted < len(tokens)


def test_a_grammar_that_fails_ends_its_request_alone() -> None:
    state, other = constrained('start: "a"'), constrained('start: "b"')
    surplus = torch.zeros(2, 30)  # a vocabulary without "a" and "b"
    choose(surplus, [Turn(state), Turn(other)])
    assert state.error == "request r: grammar: the answer cannot go on: none of the model's tokens may follow"
    fine = constrained('start: "b"')
    failing = constrained("start: /(a{1000}){1000}/")
    logits = torch.zeros(2, V)
    first = choose(logits, [Turn(failing), Turn(fine)])
    assert first[1].tokens == TOKENIZER.encode("b")
    assert failing.finish == "error"
    assert failing.error.startswith("request r: grammar: the answer cannot go on: ")
    assert first[0].tokens == []


def test_a_forbidden_token_is_refused() -> None:
    constraint = Constraint(COMPILER.matcher('start: "ab"'))
    with pytest.raises(GrammarError, match="token 5 may not follow here"):
        constraint.advance(5)
    assert constraint.allowed(V).any(), "and nothing is lost"
