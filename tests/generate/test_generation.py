"""Texts: pieces, where they end and why, and requests that cannot be carried out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from homegrown.generate import GenerateError, Piece, Sampler, SamplingConfig, complete, decode, generate
from homegrown.model import Longcat
from homegrown.tokenizer import Tokenizer, train_tokenizer
from tests.generate.talker import talker
from tests.model.small import small

GREEDY = SamplingConfig(temperature=0, max_tokens=24)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["def café(naïve): return '日本' + str(naïve)\n" * 20], 300)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Longcat:
    """Says random tokens, most of them single bytes, so that characters come in parts."""
    return talker(small(vocab_size=tokenizer.vocab_size, num_layers=1), seed=3, noise=4.0)


def tokens_of(model: Longcat, prompt: Sequence[int], count: int) -> list[int]:
    return list(decode(model, prompt, Sampler(GREEDY), count, 512))


def run(model: Longcat, tokenizer: Tokenizer | None, prompt: str | list[int], **changes: Any) -> list[Piece]:
    return list(generate(model, tokenizer, prompt, replace(GREEDY, **changes)))


@pytest.mark.parametrize("prompt", ["def ", "", "日本"])
def test_text_is_the_decoding_of_the_tokens(model: Longcat, tokenizer: Tokenizer, prompt: str) -> None:
    pieces = run(model, tokenizer, prompt)
    made = tokens_of(model, [tokenizer.bos_id, *tokenizer.encode(prompt)], 24)
    if tokenizer.eos_id in made:
        made = made[: made.index(tokenizer.eos_id)]
    assert [piece.token for piece in pieces][: len(made)] == made
    assert "".join(piece.text for piece in pieces) == tokenizer.decode(made, skip_special=True)
    assert complete(model, tokenizer, prompt, GREEDY) == tokenizer.decode(made, skip_special=True)


def test_length_ends_a_text_and_only_the_last_piece_says_so(model: Longcat, tokenizer: Tokenizer) -> None:
    pieces = run(model, tokenizer, [5, 6], max_tokens=3)
    assert [piece.finish for piece in pieces] == [None, None, "length"]


@pytest.mark.parametrize("by", ["stop_ids", "eos_token_id"])
def test_a_stop_token_ends_a_text_and_is_no_part_of_it(model: Longcat, tokenizer: Tokenizer, by: str) -> None:
    made = tokens_of(model, [5, 6], 12)
    last = made[7]
    at = made.index(last)
    changes = {"stop_ids": (last,)} if by == "stop_ids" else {}
    config = model.config
    try:
        if by == "eos_token_id":
            model.config = replace(config, eos_token_id=last)
        pieces = run(model, tokenizer, [5, 6], **changes)
    finally:
        model.config = config
    assert [piece.token for piece in pieces] == made[: at + 1]
    assert pieces[-1].finish == "stop"
    assert "".join(piece.text for piece in pieces) == tokenizer.decode(made[:at], skip_special=True)


@pytest.mark.parametrize("speculative", [False, True])
def test_a_stop_text_ends_a_text_wherever_tokens_part(model: Longcat, tokenizer: Tokenizer, speculative: bool) -> None:
    whole = complete(model, tokenizer, "def ", GREEDY)
    for start in range(0, len(whole) - 3, 5):
        stop = whole[start : start + 3]
        generation = generate(model, tokenizer, "def ", replace(GREEDY, stop=(stop,)), speculative=speculative)
        pieces = list(generation)
        assert "".join(piece.text for piece in pieces) == whole[: whole.index(stop)]
        assert pieces[-1].finish == "stop"
        assert generation.tokens == [piece.token for piece in pieces]


def test_speculation_makes_the_same_pieces(model: Longcat, tokenizer: Tokenizer) -> None:
    plain = generate(model, tokenizer, "def ", GREEDY)
    drafted = generate(model, tokenizer, "def ", GREEDY, speculative=True)
    assert list(plain) == list(drafted)
    assert plain.acceptance is None
    assert drafted.acceptance is not None
    assert drafted.acceptance.drafted > 0


def test_a_text_can_be_left_at_any_time(model: Longcat, tokenizer: Tokenizer) -> None:
    generation = generate(model, tokenizer, "def ", GREEDY)
    first = next(generation)
    assert generation.tokens == [first.token]


def test_the_longest_context_ends_a_text(tokenizer: Tokenizer) -> None:
    config = small(vocab_size=tokenizer.vocab_size, num_layers=1, max_position_embeddings=12)
    model = talker(config, seed=4, noise=4.0)
    for speculative in (False, True):
        pieces = list(generate(model, tokenizer, [5] * 9, GREEDY, speculative=speculative))
        assert [piece.finish for piece in pieces] == [None, None, "length"]


def test_a_model_without_tokenizer_makes_tokens(model: Longcat) -> None:
    pieces = run(model, None, [5, 6], max_tokens=4)
    assert [piece.token for piece in pieces] == tokens_of(model, [5, 6], 4)
    assert not any(piece.text for piece in pieces)


def test_gradients_and_random_state_are_left_alone(model: Longcat, tokenizer: Tokenizer) -> None:
    """Samples are made in the middle of training."""
    state = torch.random.get_rng_state()
    complete(model, tokenizer, "def ", SamplingConfig(max_tokens=4))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    assert all(parameter.grad is None and not parameter.is_inference() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("prompt", "changes", "options", "message"),
    [
        ([], {}, {}, "the prompt has no tokens"),
        ([1, 300], {}, {}, "the prompt holds token id 300; the model's ids are 0 to 299"),
        ([1, -1], {}, {}, "token id -1"),
        ([1] * 512, {}, {}, "the prompt has 512 tokens; the model's longest context is 512"),
        ([1], {}, {"chunk": 0}, "chunk = 0: must be at least 1"),
        ([1], {"temperature": 0.5}, {"speculative": True}, "temperature = 0.5: speculation is for greedy decoding"),
    ],
)
def test_impossible_requests_are_refused_at_once(
    model: Longcat,
    tokenizer: Tokenizer,
    prompt: list[int],
    changes: dict[str, Any],
    options: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(GenerateError, match=message):
        generate(model, tokenizer, prompt, replace(GREEDY, **changes), **options)


def test_what_needs_a_tokenizer_or_a_draft_head_says_so(model: Longcat, tokenizer: Tokenizer) -> None:
    with pytest.raises(GenerateError, match="a prompt of text needs a tokenizer"):
        generate(model, None, "def ", GREEDY)
    with pytest.raises(GenerateError, match="stop texts need a tokenizer"):
        generate(model, None, [1], replace(GREEDY, stop=("x",)))
    headless = talker(small(num_layers=1, mtp={"layers": 0}), seed=1)
    with pytest.raises(GenerateError, match="this model has no draft head"):
        generate(headless, None, [1], GREEDY, speculative=True)
