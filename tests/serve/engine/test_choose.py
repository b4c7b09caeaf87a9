"""Plain choosing: the tokens of `generate.Sampler`, then each setting that it does not have."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from homegrown.generate import Sampler, SamplingConfig
from homegrown.serve.engine.choose import Turn, choose
from homegrown.serve.messages import Grammar

from .choosing import choice, plain, talk

V = 50


def rows(count: int, vocab: int = V, seed: int = 0) -> Tensor:
    return 2 * torch.randn(count, vocab, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "fields",
    [{"temperature": 0.0}, {}, {"top_p": 0.9}, {"top_k": 5, "temperature": 0.6}, {"min_p": 0.1}, {"seed": -3}],
)
def test_tokens_of_generate(fields: dict[str, Any]) -> None:
    sampler = Sampler(SamplingConfig(**{"top_p": 1.0, "seed": 7, **fields}))
    state = choice(V, **{"seed": 7, **fields})
    expected = [sampler(row) for row in rows(40)]
    assert [choose(row[None], [Turn(state)])[0].tokens[0] for row in rows(40)] == expected


def test_a_request_does_not_notice_the_others() -> None:
    """Every kind of request at once, in any order and company, does as it does alone."""
    kinds: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {"seed": 1},
        {"seed": 2, "top_p": 0.8, "presence_penalty": 1.0},
        {"temperature": 0.0, "repetition_penalty": 1.5},
        {"seed": 3, "logit_bias": {4: 3.0}, "min_tokens": 5},
        {"seed": 4, "logprobs": 3},
    ]
    models = [talk(V) for _ in kinds]
    alone = [
        plain(model, choice(V, max_tokens=12, ends=(9,), **kind)) for model, kind in zip(models, kinds, strict=True)
    ]
    states = [choice(V, max_tokens=12, ends=(9,), **kind) for kind in kinds]
    order = torch.Generator().manual_seed(0)
    while live := [index for index, state in enumerate(states) if state.finish is None]:
        some = [live[i] for i in torch.randperm(len(live), generator=order)[: 1 + len(live) // 2]]
        logits = torch.stack([models[i]([1, *states[i].tokens]) for i in some])
        choose(logits, [Turn(states[i]) for i in some])
    assert [state.tokens for state in states] == alone


def test_half_precision_logits_are_taken_as_they_are() -> None:
    logits = rows(6).bfloat16()
    state, sampler = choice(V, seed=1), Sampler(SamplingConfig(seed=1, top_p=1.0))
    assert [choose(row[None], [Turn(state)])[0].tokens[0] for row in logits] == [sampler(row) for row in logits]


def test_the_first_of_the_likeliest() -> None:
    logits = torch.tensor([[0.0, 5.0, 5.0, 1.0], [7.0, 7.0, 7.0, 7.0]])
    assert [done.tokens for done in choose(logits, [Turn(choice(4, temperature=0.0)) for _ in range(2)])] == [[1], [0]]


def test_logits_stay_as_they_are() -> None:
    logits = rows(2)
    before = logits.clone()
    state = choice(V, presence_penalty=1.0, logit_bias={1: 5.0}, min_tokens=3, ends=(0,))
    choose(logits, [Turn(state), Turn(choice(V))])
    assert torch.equal(logits, before)


def test_stop_tokens_and_lengths() -> None:
    logits = torch.zeros(1, 5)
    logits[0, 3] = 9

    def after(count: int, **fields: Any) -> str | None:
        state = choice(5, temperature=0.0, **fields)
        for _ in range(count):
            choose(logits, [Turn(state)])
        return state.finish

    assert after(1, ends=(3,)) == "stop"
    assert after(1, stop_ids=(3,)) == "stop"
    assert after(1, ends=(3,), ignore_eos=True) is None
    assert after(1, ends=(3,), ignore_eos=True, stop_ids=(3,)) == "stop"
    assert after(2, ends=(4,), max_tokens=3) is None
    assert after(3, ends=(4,), max_tokens=3) == "length"
    assert after(1, ends=(3,), max_tokens=1) == "stop"


def test_no_end_before_the_least_number_of_tokens() -> None:
    state = choice(V, seed=1, ends=(3,), stop_ids=(4, V + 8), min_tokens=6, logit_bias={3: 50.0, 4: 49.0})
    tokens = plain(talk(V), state)
    assert (len(tokens), tokens[-1], state.finish) == (7, 3, "stop")
    assert not {3, 4} & set(tokens[:6])


def test_biases() -> None:
    logits = rows(1)
    best = int(logits.argmax())
    assert choose(logits, [Turn(choice(V, temperature=0.0, logit_bias={best: -100.0}))])[0].tokens != [best]
    assert choose(logits, [Turn(choice(V, temperature=0.0, logit_bias={5: 100.0, V: 200.0, -1: 9.0}))])[0].tokens == [5]


def test_penalties_against_a_direct_computation() -> None:
    """Each step is computed anew from the whole text, as the APIs' references define the penalties."""
    prompt = [3, 7, 7, 11]
    fields = {"presence_penalty": 0.7, "frequency_penalty": 0.4, "repetition_penalty": 1.3}
    state = choice(V, prompt=prompt, temperature=0.0, max_tokens=150, **fields)
    model = talk(V, scale=1.0)
    answer: list[int] = []
    for _ in range(150):
        logits = model([*prompt, *answer]).tolist()
        for token in {*prompt, *answer}:
            logits[token] = logits[token] / 1.3 if logits[token] > 0 else logits[token] * 1.3
        for token in range(V):
            logits[token] -= 0.4 * answer.count(token) + (0.7 if token in answer else 0.0)
        answer.append(max(range(V), key=logits.__getitem__))
    assert plain(model, state) == answer


def test_repetition_penalty_of_transformers() -> None:
    processors = pytest.importorskip("transformers.generation.logits_process")
    prompt, logits = [5, 6, 6, 2], rows(1, seed=9)
    expected = processors.RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([prompt]), logits.clone())
    state = choice(V, prompt=prompt, repetition_penalty=1.7)
    row = logits[0].clone()
    state.adjust(row)
    assert torch.equal(row, expected[0])


def test_penalties_of_a_long_answer() -> None:
    """An answer of more distinct tokens than there was room for at first."""
    state = choice(500, prompt=range(400), frequency_penalty=2.0, temperature=0.0, max_tokens=300)
    tokens = plain(lambda context: torch.linspace(1, 0, 500), state)
    assert tokens == list(range(300))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_damaged_logits_end_one_request(bad: float) -> None:
    logits = rows(3)
    good = logits.clone()
    logits[1, 17] = bad
    states = [choice(V, seed=seed, temperature=float(seed != 2), logprobs=1) for seed in range(3)]
    done = choose(logits, [Turn(state) for state in states])
    assert (states[1].finish, done[1].tokens, done[1].scores) == ("error", [], [])
    assert states[1].error.startswith("request r: the model's logits are not finite")
    for index in (0, 2):
        same = choice(V, seed=index, temperature=float(index != 2), logprobs=1)
        assert choose(good[index : index + 1], [Turn(same)]) == [done[index]]


def test_huge_logits_are_not_damage() -> None:
    state = choice(4, temperature=0.0)
    assert choose(torch.tensor([[3e38, 2e38, 3.1e38, 1e38]]), [Turn(state)])[0].tokens == [2]


def test_wrong_number_of_rows() -> None:
    with pytest.raises(ValueError, match="3 rows of logits for 4 positions"):
        choose(rows(3), [Turn(choice(V)), Turn(choice(V), drafts=[1, 2])])


def test_a_grammar_is_not_forgotten() -> None:
    with pytest.raises(ValueError, match="request r: a grammar and its matcher come together"):
        choice(V, grammar=Grammar(lark='start: "a"'))


def test_no_turns() -> None:
    assert choose(rows(0), []) == []
