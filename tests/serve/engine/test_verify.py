"""Drafts change how soon tokens come, not which, and not how often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from homegrown.serve.engine.choice import Choice
from homegrown.serve.engine.choose import Turn, choose
from homegrown.serve.grammar import GrammarCompiler
from homegrown.serve.messages import Grammar

from ..tiny import tiny_tokenizer
from .choosing import choice, drafted, plain, talk

V = 12
PENALISED = {"presence_penalty": 0.9, "frequency_penalty": 0.5, "repetition_penalty": 1.2}


def guesser(vocab: int) -> Callable[[Sequence[int]], int]:
    """The likeliest token of the made-up model, but now and then another."""
    model = talk(vocab)
    return lambda context: int(model(context).argmax()) if sum(context) % 3 else (context[-1] + 1) % vocab


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.0},
        {"temperature": 0.0, **PENALISED},
        {"temperature": 0.8},
        {"top_p": 0.8, **PENALISED},
        {"top_k": 4, "min_tokens": 20, "logit_bias": {5: 2.0}},
    ],
)
def test_the_same_tokens_as_without_drafts(fields: dict[str, Any], count: int) -> None:
    model, drafts_taken, ended = talk(V), 0, Counter[str | None]()
    for seed in range(15):
        settings = {"seed": seed, "max_tokens": 30, "ends": (0,), "prompt": [1, 2, seed % V], **fields}
        state = choice(V, **settings)
        tokens, accepted = drafted(model, state, guesser(V), count)
        assert tokens == plain(model, choice(V, **settings))
        drafts_taken += accepted
        ended[state.finish] += 1
    assert drafts_taken > 10
    assert ended["stop"] > 0


def test_accepted_as_often_as_likely() -> None:
    """A draft x is accepted with probability p(x): 4000 requests, within four standard deviations."""
    logits = torch.tensor([1.0, 0.0, 2.0, -1.0])
    share, count = float(logits.softmax(0)[0]), 4000
    turns = [Turn(choice(4, seed=seed), [0]) for seed in range(count)]
    accepted = sum(done.accepted for done in choose(logits.expand(2 * count, 4), turns))
    assert abs(accepted - count * share) < 4 * (count * share * (1 - share)) ** 0.5


def test_an_end_among_the_drafts() -> None:
    logits = torch.zeros(4, 6)
    logits[range(4), [1, 2, 3, 4]] = 50
    state = choice(6, ends=(2,))
    done = choose(logits, [Turn(state, [1, 2, 3])])[0]
    assert (done.tokens, done.accepted, state.finish) == ([1, 2], 2, "stop")
    state = choice(6, max_tokens=3)
    done = choose(logits, [Turn(state, [1, 2, 3])])[0]
    assert (done.tokens, done.accepted, state.finish) == ([1, 2, 3], 3, "length")
    done = choose(logits, [Turn(choice(6), [1, 5, 3])])[0]
    assert (done.tokens, done.accepted) == ([1, 2], 1)
    done = choose(logits, [Turn(choice(6), [1, 2, 3])])[0]
    assert (done.tokens, done.accepted) == ([1, 2, 3, 4], 3)


def test_damage_behind_a_rejected_draft_does_not_matter() -> None:
    logits = torch.zeros(2, 3)
    logits[0, 1] = 50
    logits[1, 0] = float("nan")
    rejecting, accepting = choice(3), choice(3)
    assert choose(logits, [Turn(rejecting, [2])])[0].tokens == [1]
    assert rejecting.finish is None
    assert choose(logits, [Turn(accepting, [1])])[0].tokens == [1]
    assert accepting.finish == "error"


# Joint distributions of three tokens, by enumeration.

Next = Callable[[list[int]], np.ndarray]
LENGTH, RUNS, WORDS = 3, 4000, 5


def settled(logits: np.ndarray, answer: list[int], fields: dict[str, Any]) -> np.ndarray:
    """The distribution of the next token, written down without regard to speed."""
    logits = logits.astype(np.float64).copy()
    for token in range(len(logits)):
        count = answer.count(token)
        logits[token] -= fields.get("frequency_penalty", 0.0) * count + fields.get("presence_penalty", 0.0) * (
            count > 0
        )
    logits /= fields.get("temperature", 1.0)
    probs = np.exp(logits - logits.max())
    probs /= probs.sum()
    kept = np.zeros(len(probs), bool)
    for token in sorted(range(len(probs)), key=lambda token: -probs[token]):
        if probs[kept].sum() < fields.get("top_p", 1.0):
            kept[token] = True
    probs[~kept] = 0
    return probs / probs.sum()


def chi_square(counts: Counter[tuple[int, ...]], joint: dict[tuple[int, ...], float]) -> tuple[float, int]:
    """Pearson's statistic and its degrees of freedom; cells expected less than 5 times are put together."""
    if not all(joint.get(cell, 0.0) > 0 for cell in counts):
        return np.inf, 1  # something impossible happened
    expected = {cell: RUNS * prob for cell, prob in joint.items() if prob > 0}
    large = [cell for cell, value in expected.items() if value >= 5]
    pairs = [(counts[cell], expected[cell]) for cell in large]
    rest = (RUNS - sum(count for count, _ in pairs), RUNS - sum(value for _, value in pairs))
    pairs += [rest] if rest[1] > 1 else []
    return sum((count - value) ** 2 / value for count, value in pairs), len(pairs) - 1


def quantile(freedom: int) -> float:
    """The 99.99 % quantile of chi-square (Wilson and Hilferty 1931)."""
    return float(freedom * (1 - 2 / (9 * freedom) + 3.719 * (2 / (9 * freedom)) ** 0.5) ** 3)


def joint_of(following: Next) -> dict[tuple[int, ...], float]:
    joint = {}
    for cell in product(range(WORDS), repeat=LENGTH):
        probs = [following(list(cell[:place]))[cell[place]] for place in range(LENGTH)]
        joint[cell] = float(np.prod(probs))
    return joint


def run(states: list[Choice], count: int, words: list[int]) -> Counter[tuple[int, ...]]:
    """All requests at once, each with drafts that are often right, until they have all their tokens."""
    model = talk(WORDS, scale=1.2)
    place = {token: index for index, token in enumerate(words)}

    def logits(answer: Sequence[int]) -> torch.Tensor:
        row = torch.full((max(words) + 1,), -20.0)
        row[words] = model([place[token] for token in answer])
        return row

    memory = {cell: logits(cell) for size in range(LENGTH + 1) for cell in product(words, repeat=size)}
    anything = memory[()]
    while live := [state for state in states if state.finish is None]:
        turns, rows = [], []
        for state in live:
            drafts: list[int] = []
            for _ in range(count):
                row = memory.get((*state.tokens, *drafts), anything)
                drafts.append(words[int(row[words].argmax())])
            rows += [memory.get((*state.tokens, *drafts[:taken]), anything) for taken in range(count + 1)]
            turns.append(Turn(state, drafts))
        choose(torch.stack(rows), turns)
    return Counter(tuple(place[token] for token in state.tokens) for state in states)


@pytest.mark.parametrize("count", [0, 2])
@pytest.mark.parametrize(
    "fields", [{"temperature": 1.3}, {"top_p": 0.8}, {"presence_penalty": 1.0, "frequency_penalty": 0.6, "top_p": 0.9}]
)
def test_joint_distribution(fields: dict[str, Any], count: int) -> None:
    model = talk(WORDS, scale=1.2)
    joint = joint_of(lambda answer: settled(model(answer).numpy(), answer, fields))
    assert sum(joint.values()) == pytest.approx(1)
    counts = run(
        [choice(WORDS, seed=seed, max_tokens=LENGTH, **fields) for seed in range(RUNS)], count, [*range(WORDS)]
    )
    statistic, freedom = chi_square(counts, joint)
    assert freedom > 15
    assert statistic < quantile(freedom)
    # The test would notice a distribution that is off by a little: a temperature 8 % lower, or a penalty lost.
    wrong = {**fields, "temperature": fields.get("temperature", 1.0) * 0.92, "presence_penalty": 0.0}
    other = joint_of(lambda answer: settled(model(answer).numpy(), answer, wrong))
    statistic, freedom = chi_square(counts, other)
    assert statistic > quantile(freedom)


def test_joint_distribution_under_a_grammar() -> None:
    """The second token must differ in kind from the first: `a` or `b`, then `c` to `e`, and so on."""
    tokenizer = tiny_tokenizer()
    words = [tokenizer.encode(char)[0] for char in "abcde"]
    compiler = GrammarCompiler(tokenizer)
    lark = "start: (/[ab]/ /[cde]/)* /[ab]/?"
    fields = {"temperature": 1.1, "presence_penalty": 0.8}
    settings = {"grammar": Grammar(lark=lark), "logit_bias": {tokenizer.eos_id: -100.0}, "max_tokens": LENGTH, **fields}
    states = [
        choice(max(words) + 1, seed=seed, matcher=compiler.matcher(lark), ends=(tokenizer.eos_id,), **settings)
        for seed in range(RUNS)
    ]
    model = talk(WORDS, scale=1.2)

    def following(answer: list[int]) -> np.ndarray:
        logits = model(answer).numpy().copy()
        logits[[2, 3, 4] if len(answer) % 2 == 0 else [0, 1]] = -1e9
        return settled(logits, answer, fields)

    statistic, freedom = chi_square(run(states, 2, words), joint_of(following))
    assert freedom > 8
    assert statistic < quantile(freedom)
