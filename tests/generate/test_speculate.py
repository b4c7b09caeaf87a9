"""Speculation changes nothing but the number of passes."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from homegrown.config import ModelConfig
from homegrown.generate import Acceptance, GenerateError, Sampler, SamplingConfig, decode, speculate
from homegrown.generate.decode import as_row, empty_cache, extend
from homegrown.generate.speculate import Drafter
from homegrown.model import Cache, CachedContext, History, Longcat, shifted
from tests.generate.talker import prompts, talker
from tests.model.small import batch, small

MODULE = sys.modules["homegrown.generate.speculate"]
PAGED = {
    "hierarchical": True, "hierarchical_threshold": 14, "hierarchical_skip_owners": 0, "page_size": 4,
    "page_block": 2, "page_topk": 3, "local_tokens": 4, "topk": 12,
}  # fmt: skip
CONFIGS = {
    "all parts": small(),
    "dense attention": small(num_layers=1, sparse={"topk": 0}),
    "no n-grams, one step": small(num_layers=1, ngram={"order": 0}, mtp={"steps": 1}),
    "dense draft": small(num_layers=1, mtp={"indexer": False}),
    "drafts with n-grams, before the norm": small(num_layers=1, mtp={"use_ngram": True, "chain": "pre_norm"}),
    "paged prompts": small(num_layers=1, sparse=PAGED),
    "layer norm, router bias": small(num_layers=1, sparse={"k_norm": "layer"}, router_bias=True),
}


def plain(model: Longcat, prompt: Sequence[int], limit: int, chunk: int = 16) -> list[int]:
    return list(decode(model, prompt, Sampler(SamplingConfig(temperature=0)), limit, chunk))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_tokens_are_those_of_greedy_decoding(name: str, dtype: torch.dtype) -> None:
    """Texts run from a few visible keys to many more than the budget, and across ends of documents."""
    config = CONFIGS[name]
    acceptance = Acceptance()
    for noise in (1.5, 4.0):
        model = talker(config, seed=7, noise=noise, dtype=dtype)
        for prompt in prompts(config, 2, seed=8):
            assert list(speculate(model, prompt, 18, 16, acceptance)) == plain(model, prompt, 18)
    assert {0, config.mtp.steps} <= set(acceptance.passes), "drafts are sometimes right and sometimes wrong"


def with_near_ties(model: Longcat) -> Longcat:
    """Tokens 2v and 2v + 1 get logits that differ by a few roundings, and lead to different texts."""
    rows = model.lm_head.weight
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        even = rows[: rows.shape[0] // 2 * 2 : 2]
        noise = torch.randn(even.shape, generator=generator) * torch.finfo(torch.float32).eps
        rows[1::2][: len(even)] = even * (1 + noise)
    return model


def test_near_ties_are_decided_as_in_greedy_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of all choices hang on the last bits here. A pass of several rows that only agrees up to rounding gives
    other texts; ours never does."""
    config = small()
    model = with_near_ties(talker(config, seed=1))
    chosen = prompts(config, 3, seed=2)
    greedy = [plain(model, prompt, 24) for prompt in chosen]
    assert [list(speculate(model, prompt, 24, 16)) for prompt in chosen] == greedy
    monkeypatch.setattr(MODULE, "_check", check_up_to_rounding)
    assert [list(speculate(model, prompt, 24, 16)) for prompt in chosen] != greedy


@torch.inference_mode()
def check_up_to_rounding(model: Longcat, cache: Cache, tokens: Sequence[int]) -> tuple[Tensor, list[int]]:
    """What speculation usually does: one pass, rows together."""
    context = CachedContext(model.config, cache, len(tokens), torch.float32)
    trunk = model.trunk(as_row(tokens, torch.device("cpu")), context)
    return model.draft_start(trunk), model.logits(trunk.output).argmax(-1)[0].tolist()


@pytest.mark.parametrize(("past", "threads"), [(3, 1), (9, 1), (30, 1), (30, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_a_pass_of_several_rows_is_as_many_passes_of_one(past: int, dtype: torch.dtype, threads: int) -> None:
    """Logits and all keys, to the last bit, where rows see fewer keys than the budget, as many, and more."""
    torch.set_num_threads(threads)
    config = small()
    model = talker(config, seed=3, dtype=dtype)
    tokens, _ = batch(config, 1, past + 4, seed=past)
    cache = empty_cache(model, past + 4)
    extend(model, cache, tokens[:, :past], prefill=True)
    MODULE._compared.clear()
    MODULE._check(model, cache, tokens[0, past:].tolist())  # raises where they differ
    assert MODULE._compared[model] == (torch.device("cpu"), dtype)


@pytest.mark.usefixtures("operators")
def test_a_pass_of_several_rows_by_operators() -> None:
    test_a_pass_of_several_rows_is_as_many_passes_of_one(30, torch.float32, 2)
    test_a_pass_of_several_rows_is_as_many_passes_of_one(9, torch.bfloat16, 1)


@pytest.mark.usefixtures("operators")
def test_a_device_on_which_rows_differ_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stood in for by a context that shifts every row but the first by the last bit."""

    class Careless(MODULE.RowContext):  # type: ignore[misc]
        def attend(self, *args: object) -> tuple[Tensor, None]:
            out, _ = super().attend(*args)
            out[:, 1:] = torch.nextafter(out[:, 1:], torch.tensor(torch.inf))
            return out, None

    model = talker(small(), seed=1)
    assert list(speculate(model, [5], 8, 16)) == plain(model, [5], 8)
    monkeypatch.setattr(MODULE, "RowContext", Careless)
    assert len(list(speculate(model, [5], 8, 16))) == 8, "a model is compared once"
    MODULE._compared.clear()
    with pytest.raises(GenerateError, match="on cpu in float32 a pass of 4 tokens differs from single ones"):
        list(speculate(model, [5], 8, 16))


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 9])
def test_never_more_tokens_than_asked_for(limit: int) -> None:
    model = talker(small(), seed=7, noise=0.5)
    acceptance = Acceptance()
    made = list(speculate(model, [9, 8, 7], limit, 2, acceptance))
    assert made == plain(model, [9, 8, 7], limit, chunk=2)
    assert len(made) == limit
    if limit > 2:
        assert acceptance.accepted == acceptance.drafted > 0, "without noise the draft head is always right"
    else:
        assert acceptance == Acceptance(), "nothing to draft"


def test_acceptance_counts_every_token() -> None:
    """One token comes from the prompt, then each pass adds its accepted drafts and one more."""
    model = talker(small(), seed=7, noise=3.0)
    acceptance = Acceptance()
    made = len(list(speculate(model, [9, 8, 7], 40, 16, acceptance)))
    unchecked = made - 1 - acceptance.accepted - acceptance.passes.total()
    assert unchecked in (0, 1), "a last token may be left for which nothing was drafted"
    assert acceptance.drafted <= 3 * acceptance.passes.total()


def first_drafts(model: Longcat, tokens: Tensor) -> list[int]:
    """The first draft behind every position, all at once, as in training."""
    with torch.no_grad():
        context = model.context(tokens)
        state = model.draft_start(model.trunk(tokens, context))
        ahead = shifted(tokens, 1, model.config.pad_token_id)
        draft = model.draft(
            ahead, state, context, None, History.after(tokens[:, :1], ahead, context.span.positions + 1)
        )
        return model.logits(draft.output)[0].argmax(-1).tolist()


@pytest.mark.parametrize("name", CONFIGS)
def test_first_drafts_are_those_of_the_whole_sequence(name: str) -> None:
    """Rows of the draft cache come from the model's own states in prompt and text alike: the first step is training's
    first step, at every position, however the prompt was cut and whatever later steps left behind."""
    config: ModelConfig = CONFIGS[name]
    if config.sparse.hierarchical:
        pytest.skip("the whole sequence is never paged")
    model = talker(config, seed=2, noise=0.7, dtype=torch.float64)
    tokens, _ = batch(config, 1, 40, seed=4)
    cache = empty_cache(model, 64)
    drafter = Drafter(model, cache, tokens)
    expected = first_drafts(model, tokens)
    start = 0
    for size in (9, 1, 13):
        trunk = extend(model, cache, tokens[:, start : start + size], prefill=True)
        drafter.absorb(model.draft_start(trunk), tokens[:, start + 1 : start + size + 1])
        start += size
    for size in (1, 3, 4, 1, 2):
        trunk = extend(model, cache, tokens[:, start : start + size])
        start += size
        known = tokens[0, start - size + 1 : start + 1].tolist()
        found = drafter.propose(model.draft_start(trunk), known, config.mtp.steps)
        assert found[0] == expected[start - 1]
        assert len(found) == config.mtp.steps
