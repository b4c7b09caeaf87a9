"""Drafts made for many sequences together against the draft head at work on one."""

from __future__ import annotations

import sys

import pytest
import torch

from homegrown.generate import speculate
from homegrown.model import Longcat
from homegrown.serve.engine.batch import DraftBatch, DraftSegment
from tests.generate.talker import prompts, talker
from tests.model.small import batch, small
from tests.serve.engine.hands import Hands, Text
from tests.serve.engine.test_runner import CONFIGS

DRAFTING = [name for name, config in CONFIGS.items() if config.mtp.layers]
MODULE = sys.modules["homegrown.generate.speculate"]
CHUNK = 10
"""Chunks end within pages."""


def drafts_of_generate(
    model: Longcat, prompt: list[int], limit: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[int], list[list[int]]]:
    """A greedy text, and what was drafted for it."""
    made: list[list[int]] = []
    with monkeypatch.context() as patch:
        original = MODULE.Drafter.propose

        def propose(self: object, *args: object) -> list[int]:
            made.append(original(self, *args))
            return made[-1]

        patch.setattr(MODULE.Drafter, "propose", propose)
        text = list(speculate(model, prompt, limit, CHUNK))
    return text, [drafts for drafts in made if drafts]


@pytest.mark.parametrize(("dtype", "invariant"), [(torch.float64, False), (torch.float32, True)])
@pytest.mark.parametrize("name", DRAFTING)
def test_drafts_are_those_of_generate(
    name: str, dtype: torch.dtype, invariant: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Round by round, for texts of all lengths together, that end at different times."""
    config = CONFIGS[name]
    model = talker(config, seed=7, noise=4.0, dtype=dtype)
    chosen = [*prompts(config, 3, seed=9), [9], [8, 7]]
    limits = [len(prompt) + 15 - 2 * number for number, prompt in enumerate(chosen)]
    texts = [Text(list(prompt)) for prompt in chosen]
    hands = Hands(model, invariant=invariant, pages=200)
    made = hands.speculate(texts, limits, config.mtp.steps, CHUNK)
    for text, prompt, limit, own in zip(texts, chosen, limits, made, strict=True):
        tokens, drafts = drafts_of_generate(model, prompt, limit - len(prompt), monkeypatch)
        assert text.tokens[len(prompt) :] == tokens
        assert [drafted for drafted in own if drafted] == drafts


@pytest.mark.parametrize("name", ["all parts", "drafts with n-grams, before the norm"])
@pytest.mark.parametrize(
    ("dtype", "invariant", "tolerance"),
    [(torch.float32, True, 0.0), (torch.bfloat16, True, 0.0), (torch.float64, False, 1e-11)],
)
def test_drafts_do_not_depend_on_company(name: str, dtype: torch.dtype, invariant: bool, tolerance: float) -> None:
    """Nor do the draft block's rows, in invariant mode to the last bit; nor on how many tokens were accepted at a
    time."""
    model = talker(CONFIGS[name], seed=7, noise=2.0, dtype=dtype)
    chosen = [[9], *prompts(CONFIGS[name], 2, seed=12), [8, 7]]
    limits = [len(prompt) + 20 for prompt in chosen]
    together = [Text(list(prompt)) for prompt in chosen]
    hands = Hands(model, invariant, pages=200)
    made = hands.speculate(together, limits, 3, CHUNK)
    for number, prompt in enumerate(chosen):
        alone = Text(list(prompt))
        other = Hands(model, invariant, pages=100, seed=number + 1)
        assert other.speculate([alone], limits[number : number + 1], 3, CHUNK) == [made[number]]
        assert alone.tokens == together[number].tokens
        whole = (len(alone.tokens) - 1) // 4
        pages = (other.pool.save(alone.pages[:whole]), hands.pool.save(together[number].pages[:whole]))
        for one, among in zip(*(saved.tensors for saved in pages), strict=True):
            torch.testing.assert_close(one, among, rtol=tolerance, atol=tolerance)


def test_drafting_may_pause() -> None:
    """Rows stay complete while no drafts are asked for, so later drafts are the same."""
    model = talker(small(), seed=7, noise=1.5, dtype=torch.float64)
    tokens = batch(small(), 1, 40, seed=3)[0][0].tolist()
    hands = Hands(model)
    texts = paused, asked = Text(tokens[:20]), Text(tokens[:20])
    for text in texts:
        hands.prefill(text, 16, stop=19)
    for token in tokens[20:]:
        hands.run([(text, hands.segment(text, 1, prefill=False)) for text in texts])
        for text in texts:
            text.tokens.append(token)
        paused_steps = 3 if len(paused.tokens) == len(tokens) else 0
        hands.draft(texts, (1, 1), (paused_steps, 1 + len(paused.tokens) % 3))
        assert len(paused.drafts) == paused_steps
        drafts, asked_drafts = paused.drafts, asked.drafts
        paused.drafts, asked.drafts = [], []
    assert drafts[: len(asked_drafts)] == asked_drafts


def test_drafts_that_do_not_continue_the_pass_are_refused() -> None:
    hands = Hands(talker(small(), seed=1))
    text = Text([5, 6, 7, 8])
    hands.prefill(text, 4)
    hands.room(text, 12)

    def ask(past: int, tokens: list[int], steps: int = 1) -> None:
        segment = DraftSegment(segment=0, tokens=tokens, past=past, pages=text.pages, earlier=[6, 7], steps=steps)
        hands.runner.draft(DraftBatch(segments=[segment]))

    with pytest.raises(ValueError, match="positions 5 to 5 do not follow from positions 0 to 3 of segment 0"):
        ask(5, [4])
    with pytest.raises(ValueError, match="positions 4 to 5 do not follow"):
        ask(4, [4, 4])
    with pytest.raises(ValueError, match="draft segment 0: 3 pages of 4 positions have no room for 9 behind 4"):
        ask(4, [4], steps=9)
    ask(4, [4], steps=8)
    assert hands.runner.draft(DraftBatch(segments=[])) == []


def test_drafts_need_a_draft_block() -> None:
    for hands in (Hands(talker(small(mtp={"layers": 0}), seed=1)), Hands(talker(small(), seed=1), drafts=False)):
        assert not hands.pool.drafts
        text = Text([5, 6])
        hands.prefill(text, 4)
        with pytest.raises(ValueError, match="drafts are not kept"):
            hands.draft([text], [1], [1])
