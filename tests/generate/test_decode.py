"""Cached decoding and chunked prefill against the whole sequence at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from homegrown.config import ModelConfig
from homegrown.generate import Sampler, SamplingConfig, decode
from homegrown.generate.decode import as_row, empty_cache, extend
from homegrown.model import CachedContext, Longcat
from homegrown.model.sparse import IndexInput, Selection
from tests.generate.talker import prompts, talker
from tests.model.small import batch, small

LENGTH = 48
CONFIGS = {
    "all parts": small(),
    "dense attention": small(sparse={"topk": 0}),
    "n-grams of five": small(ngram={"order": 5, "splits": 2}, hidden_size=32),
    "no n-grams": small(ngram={"order": 0}),
    "one owner": small(sparse={"share": 4}),
}
TOLERANCE = {
    # Both ways round the same sums differently, a few hundred roundings of unit-sized numbers apart.
    torch.float64: {"atol": 1e-12, "rtol": 1e-12},
    torch.float32: {"atol": 1e-5, "rtol": 1e-5},
}


def in_chunks(model: Longcat, tokens: Tensor, sizes: list[int]) -> Tensor:
    """Logits [1, S, V], the tokens run in chunks of these sizes and the rest one by one."""
    cache = empty_cache(model, tokens.shape[1])
    sizes = sizes + [1] * (tokens.shape[1] - sum(sizes))
    parts = [extend(model, cache, part, prefill=part.shape[1] > 1).output for part in tokens.split(sizes, dim=1)]
    with torch.inference_mode():
        return model.logits(torch.cat(parts, dim=1))


def sizes_of(cuts: list[int], length: int) -> list[int]:
    edges = sorted({cut for cut in cuts if 0 < cut < length})
    return [b - a for a, b in zip([0, *edges], edges, strict=False)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_random_chunks_and_single_steps_equal_the_whole_sequence(name: str, dtype: torch.dtype) -> None:
    """Chunks fall across n-gram contexts and ends of documents; most tokens see more keys than the budget."""
    config = CONFIGS[name]
    model = talker(config, seed=1, noise=0.7, dtype=dtype)
    tokens, _ = batch(config, 1, LENGTH, seed=3)
    assert (tokens == config.eos_token_id).any()
    with torch.no_grad():
        whole = model(tokens)

    @settings(max_examples=6, deadline=None, derandomize=True, database=None)
    @given(st.lists(st.integers(1, LENGTH), max_size=8))
    def agree(cuts: list[int]) -> None:
        torch.testing.assert_close(in_chunks(model, tokens, sizes_of(cuts, LENGTH)), whole, **TOLERANCE[dtype])

    agree()


def test_decode_is_argmax_of_the_whole_sequence_again_and_again() -> None:
    config = small()
    model = talker(config, seed=2, dtype=torch.float64)
    for prompt in prompts(config, 3, seed=1):
        made = list(decode(model, prompt, Sampler(SamplingConfig(temperature=0)), limit=12, chunk=5))
        known = list(prompt)
        for _ in range(12):
            with torch.no_grad():
                known.append(int(model(torch.tensor([known]))[0, -1].argmax()))
        assert made == known[len(prompt) :]


def test_a_seed_reproduces_a_text() -> None:
    config = small()
    model = talker(config, seed=4)

    def text(seed: int) -> list[int]:
        return list(decode(model, [5, 6, 7], Sampler(SamplingConfig(temperature=3.0, seed=seed)), 16, chunk=8))

    assert text(1) == text(1)
    assert text(1) != text(2)


seen: list[tuple[int, int, IndexInput, Tensor, Tensor | None]] = []


class Watched(CachedContext):
    """A context that keeps what was selected from what."""

    def select(self, slot: int, index: IndexInput) -> Selection:
        selection = super().select(slot, index)
        keys = self.cache.index[slot][0, : self.past + index.key.shape[1]].clone()
        seen.append((self.past, slot, index, keys, selection.positions))
        return selection


def paged_choice(config: ModelConfig, query: Tensor, weight: Tensor, keys: Tensor, t: int) -> list[int]:
    """Hierarchical indexing of one query by the formulas of arXiv 2608.01662 section 3.3, one number at a time."""
    sparse = config.sparse

    def score(key: Tensor) -> float:
        return float(sum(weight[j] * (query[j] @ key).clamp(min=0) for j in range(sparse.heads)))

    pages = {}
    for page in range((t + 1) // sparse.page_size):
        starts = range(page * sparse.page_size, (page + 1) * sparse.page_size, sparse.page_block)
        pages[page] = sum(score(keys[start : start + sparse.page_block].mean(0)) for start in starts)
    best = sorted(pages, key=lambda page: (-pages[page], page))[: sparse.page_topk]
    fixed = {s for s in range(t + 1) if s < sparse.init_tokens or s > t - sparse.local_tokens}
    others = [s for s in range(t + 1) if s not in fixed and s // sparse.page_size in best]
    ranked = sorted(others, key=lambda s: (-score(keys[s]), s))
    return sorted(fixed | set(ranked[: sparse.topk - len(fixed)]))


PAGING: dict[str, Any] = {
    "hierarchical": True, "hierarchical_threshold": 30, "hierarchical_skip_owners": 1,
    "page_size": 4, "page_block": 2, "page_topk": 3, "local_tokens": 4, "topk": 12,
}  # fmt: skip


@pytest.mark.parametrize("sizes", [[LENGTH], [7, 22, 1, 18], [29, 1, 1, 17]])
def test_hierarchical_indexing_is_the_brute_force_choice(sizes: list[int]) -> None:
    """From the threshold on, for all owners but the first, whatever the chunks; before it, and in decoding, all keys
    are scored."""
    config = small(sparse=PAGING)
    model = talker(config, seed=5, noise=0.7, dtype=torch.float64)
    tokens, _ = batch(config, 1, LENGTH + 2, seed=6)
    cache = empty_cache(model, LENGTH + 2)
    seen.clear()
    with torch.inference_mode():
        for number, part in enumerate(tokens.split([*sizes, 1, 1], dim=1)):
            context = Watched(config, cache, part.shape[1], torch.float64, prefill=number < len(sizes))
            model.trunk(part, context)
            context.commit()
    everything = small(sparse={**PAGING, "page_topk": LENGTH})
    paged = differ = 0
    for past, slot, index, keys, chosen in seen:
        if chosen is None:
            assert past + index.key.shape[1] <= config.sparse.topk
            continue
        for row, t in enumerate(range(past, past + index.key.shape[1])):
            by_page = slot > 0 and PAGING["hierarchical_threshold"] - 1 <= t < LENGTH
            query, weight = index.query[0, row], index.weight[0, row]
            if t + 1 <= config.sparse.topk:
                expected = list(range(t + 1))
            else:
                expected = paged_choice(config if by_page else everything, query, weight, keys, t)
            # Without pages the last, partial one counts too; the window of as many tokens covers it.
            assert [s for s in chosen[0, row].tolist() if s >= 0] == expected, f"slot {slot}, token {t}"
            paged += by_page
            differ += by_page and expected != paged_choice(everything, query, weight, keys, t)
    assert paged == LENGTH - (PAGING["hierarchical_threshold"] - 1)
    assert differ, "pages make a difference here"


def test_a_full_cache_says_so() -> None:
    model = talker(small(), seed=1)
    cache = empty_cache(model, 4)
    with pytest.raises(ValueError, match="the cache holds 4 positions; 0 \\+ 5 do not fit"):
        extend(model, cache, as_row([1, 5, 6, 7, 8], torch.device("cpu")))
