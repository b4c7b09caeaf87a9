"""How rows are grouped, and what a pass may touch."""

from __future__ import annotations

import random

import pytest
import torch

from homegrown.serve.engine.batch import look_back
from homegrown.serve.engine.layout import PADDING, SLACK, together
from homegrown.serve.engine.stretch import Stretch
from tests.generate.talker import talker
from tests.model.small import batch, small
from tests.serve.engine.hands import Hands, Text


def stretch(past: int, count: int = 1, prefill: bool = False) -> Stretch:
    return Stretch(past, count, range(1, 1 + (past + count + 15) // 16), prefill=prefill)


@pytest.mark.parametrize("budget", [0, 2048])
@pytest.mark.parametrize("seed", range(5))
def test_every_stretch_is_in_one_group_and_padding_is_bounded(budget: int, seed: int) -> None:
    numbers = random.Random(seed)
    stretches = [
        stretch(int(10 ** numbers.uniform(0, 6)), numbers.randint(1, 4), numbers.random() < 0.1) for _ in range(60)
    ]
    asked = sorted(numbers.sample(range(60), 50))
    groups = together(stretches, asked, budget, 16)
    assert sorted(number for group in groups for number in group) == asked
    for group in groups:
        members = [stretches[number] for number in group]
        assert group == sorted(group)
        assert len(group) == 1 or not any(member.prefill for member in members)
        assert len({0 < budget < member.stop for member in members}) == 1
        padded = len(group) * max(member.stop for member in members)
        assert padded <= (1 + PADDING) * sum(member.stop + 15 for member in members) + SLACK + 16 * len(group)


def test_one_long_text_does_not_make_others_as_long() -> None:
    stretches = [stretch(1_000_000), *(stretch(5000 + number) for number in range(50))]
    assert together(stretches, range(51), 0, 16) == [[0], list(range(1, 51))]


def test_short_texts_attend_together() -> None:
    assert together([stretch(number) for number in range(60)], range(60), 0, 16) == [list(range(60))]


@pytest.mark.parametrize("invariant", [True, False])
def test_a_pass_touches_no_page_but_those_it_writes(invariant: bool) -> None:
    """The page that belongs to nobody, full pages behind, and other sequences' pages keep every bit."""
    config = small()
    model = talker(config, seed=1, noise=1.5)
    hands = Hands(model, invariant)
    tokens, others = batch(config, 2, 40, seed=1)[0].tolist()
    bystander, first, second = Text(others), Text(tokens[:18]), Text(others[:21])
    hands.prefill(bystander, 16)
    before = [buffer.clone() for buffer in hands.pool.buffers.all]
    hands.speculate([first, second], [40, 40], 3, chunk=10)
    written = {*first.pages, *second.pages}
    rest = [page for page in range(hands.pool.pages + 1) if page not in written]
    assert 0 in rest
    assert all(map(torch.equal, (b[rest] for b in before), (b[rest] for b in hands.pool.buffers.all)))
    full = first.pages[: first.done // 4]
    before = [buffer[full].clone() for buffer in hands.pool.buffers.all]
    hands.speculate([first, second], [50, 50], 3, chunk=10)
    assert all(map(torch.equal, before, (buffer[full] for buffer in hands.pool.buffers.all)))


def test_tokens_to_look_back_over() -> None:
    config = small()
    assert config.ngram.order == 3
    assert look_back(config, [5, 6, 7, 8], 3) == [6, 7]
    assert look_back(config, [5, 6, 7, 8], 1) == [5]
    assert look_back(config, [5, 6, 7, 8], 0) == []
    assert look_back(small(ngram={"order": 0}), [5, 6, 7, 8], 3) == []
