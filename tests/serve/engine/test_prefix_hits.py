"""A text that begins with cached pages goes on as if it had been computed from its start."""

from __future__ import annotations

import pytest
import torch

from homegrown.model import Longcat
from homegrown.serve.engine.prefix import PrefixCache, page_keys
from tests.generate.talker import talker
from tests.model.small import batch
from tests.serve.engine.hands import Hands, Text
from tests.serve.engine.test_runner import CONFIGS

CHUNK, SHARED, LIMIT = 8, 24, 52


def two_prompts(model: Longcat) -> tuple[list[int], list[int]]:
    """They agree in their first `SHARED` + 2 tokens."""
    first, second = batch(model.config, 2, SHARED + 9, seed=4)[0].tolist()
    return first, [*first[: SHARED + 2], *second[SHARED + 2 :]]


def finish(hands: Hands, text: Text) -> list[list[int]]:
    """Make a text to its end; the drafts made on the way."""
    return hands.speculate([text], [LIMIT], 3, CHUNK)[0]


@pytest.mark.parametrize("name", [name for name, config in CONFIGS.items() if config.mtp.layers])
@pytest.mark.parametrize("invariant", [True, False])
def test_hits_restore_everything(name: str, invariant: bool) -> None:
    """Text, drafts, and every page: to the last bit in invariant mode, where hits are cut to whole chunks."""
    dtype = torch.float32 if invariant else torch.float64
    model = talker(CONFIGS[name], seed=2, noise=1.5, dtype=dtype)
    earlier, prompt = two_prompts(model)
    hands = Hands(model, invariant)
    prefix = PrefixCache(hands.pool)
    first = Text(earlier)
    finish(hands, first)
    limit = len(prompt) // CHUNK * CHUNK if invariant else LIMIT - 1
    keys = page_keys(first.tokens[:limit], hands.pool.page_size)
    first.pages = prefix.insert(keys, first.pages)
    prefix.release(first.pages)

    hit = prefix.match(page_keys(prompt, hands.pool.page_size), len(prompt) - 1, CHUNK if invariant else 1)
    prefix.lock(hit)
    assert len(hit) * hands.pool.page_size == SHARED
    text, fresh = Text(list(prompt), hit, SHARED), Text(list(prompt))
    other = Hands(model, invariant, seed=1)
    drafts = finish(hands, text)
    assert drafts == finish(other, fresh)
    assert text.tokens == fresh.tokens
    assert any(drafts)
    whole = (LIMIT - 1) // hands.pool.page_size
    pairs = zip(hands.pool.save(text.pages[:whole]).tensors, other.pool.save(fresh.pages[:whole]).tensors, strict=True)
    tolerance = 0.0 if invariant else 1e-10
    for with_hit, without in pairs:
        torch.testing.assert_close(with_hit, without, rtol=tolerance, atol=tolerance)


def test_pages_of_a_text_that_was_made_serve_the_next_round() -> None:
    """A conversation: the next prompt begins with the last one and its answer."""
    model = talker(CONFIGS["all parts"], seed=2, noise=1.5, dtype=torch.float64)
    prompt, _ = two_prompts(model)
    hands = Hands(model)
    prefix = PrefixCache(hands.pool)
    first = Text(list(prompt))
    finish(hands, first)
    prefix.release(prefix.insert(page_keys(first.tokens[:-1], 4), first.pages))
    following = [*first.tokens, 9, 8, 7]
    hit = prefix.match(page_keys(following, 4), len(following) - 1)
    assert len(hit) == (LIMIT - 1) // 4
    prefix.lock(hit)
    text, fresh = Text(list(following), hit, 4 * len(hit)), Text(list(following))
    torch.testing.assert_close(hands.prefill(text, CHUNK), Hands(model).prefill(fresh, CHUNK), rtol=1e-9, atol=1e-9)
