"""Rows of many sequences in one pass against one cache for each sequence."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor

from homegrown.config import ModelConfig
from homegrown.generate import Sampler, SamplingConfig, decode
from homegrown.generate.decode import as_row, empty_cache, extend, last_logits
from homegrown.model import Longcat
from tests.generate.talker import prompts, talker
from tests.model.small import batch, small
from tests.serve.engine.hands import Hands, Text

PAGED = {
    "hierarchical": True, "hierarchical_threshold": 14, "hierarchical_skip_owners": 1, "page_size": 4,
    "page_block": 2, "page_topk": 3, "local_tokens": 4, "topk": 12,
}  # fmt: skip
CONFIGS: dict[str, ModelConfig] = {
    "all parts": small(),
    "dense attention": small(num_layers=1, sparse={"topk": 0}),
    "no n-grams": small(num_layers=1, ngram={"order": 0}),
    "no draft block": small(num_layers=1, mtp={"layers": 0}),
    "dense draft": small(num_layers=1, mtp={"indexer": False}),
    "drafts with n-grams, before the norm": small(num_layers=1, mtp={"use_ngram": True, "chain": "pre_norm"}),
    "paged prompts": small(num_layers=2, sparse=PAGED),
    "every sublayer chooses": small(num_layers=1, sparse={"share": 1}),
    "reused over two layers": small(num_layers=2, sparse={"share": 4}),
    "no zero experts, layer norm": small(num_layers=1, zero_expert_num=0, sparse={"k_norm": "layer"}),
}
BITS = [torch.float32, torch.bfloat16]


def expected(model: Longcat, tokens: list[int], chunks: list[int], prompt: int) -> Tensor:
    """Logits of all tokens: a prompt in chunks, then one by one."""
    cache = empty_cache(model, len(tokens))
    rows, start = [], 0
    for count in [*chunks, *[1] * (len(tokens) - prompt)]:
        trunk = extend(model, cache, as_row(tokens[start : start + count], cache.tokens.device), start < prompt)
        rows += [last_logits(model, output)[None] for output in trunk.output.split(1, dim=1)]
        start += count
    return torch.cat(rows)


def cut(total: int, random_numbers: random.Random) -> list[int]:
    chunks = []
    while total:
        chunks.append(random_numbers.randint(1, min(total, 17)))
        total -= chunks[-1]
    return chunks


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_mixed_passes_agree_with_a_cache_for_each_sequence(name: str, dtype: torch.dtype) -> None:
    """Prompts in random chunks, generated tokens one or several at a time, as they come; some see fewer keys than the
    budget and some many more."""
    config = CONFIGS[name]
    model = talker(config, seed=3, noise=1.0, dtype=dtype)
    numbers = random.Random(name)
    hands = Hands(model, drafts=numbers.random() < 0.5)
    texts, plans, truth = [], [], []
    for length in (3, 9, 30, 31, 47, 22):
        tokens = batch(config, 1, length, seed=length)[0][0].tolist()
        prompt = numbers.randint(1, length)
        chunks = cut(prompt, numbers)
        truth.append(expected(model, tokens, chunks, prompt))
        plans.append([(count, True) for count in chunks] + [(1, False)] * (length - prompt))
        texts.append(Text(tokens))
    got: list[list[Tensor]] = [[] for _ in texts]
    while any(plans):
        chosen = [number for number in range(len(texts)) if plans[number] and numbers.random() < 0.7]
        numbers.shuffle(chosen)
        segments = []
        for number in chosen:
            count, prefill = plans[number].pop(0)
            while not prefill and plans[number] and numbers.random() < 0.5:
                count += plans[number].pop(0)[0]
            segments.append((texts[number], hands.segment(texts[number], count, prefill, wanted=count)))
        if segments:
            for number, logits in zip(chosen, hands.run(segments), strict=True):
                got[number].append(logits)
    tolerance = 1e-11 if dtype == torch.float64 else 2e-4
    for own, true in zip(got, truth, strict=True):
        torch.testing.assert_close(torch.cat(own), true, rtol=tolerance, atol=tolerance * float(true.abs().max()))


@pytest.mark.parametrize("dtype", BITS, ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_invariant_texts_are_those_of_decode(name: str, dtype: torch.dtype) -> None:
    """To the last bit, whatever else is in the pass, with drafts or without."""
    config = CONFIGS[name]
    model = talker(config, seed=7, noise=1.5, dtype=dtype)
    hands = Hands(model, invariant=True, pages=200)
    chosen = prompts(config, 4, seed=8)
    limits = [len(prompt) + 14 - number for number, prompt in enumerate(chosen)]
    texts = [Text(list(prompt)) for prompt in chosen]
    if config.mtp.layers:
        hands.speculate(texts, limits, 3, chunk=16)
    else:
        greedy_without_drafts(hands, texts, limits, chunk=16)
    for text, prompt, limit in zip(texts, chosen, limits, strict=True):
        sampler = Sampler(SamplingConfig(temperature=0))
        assert text.tokens == [*prompt, *decode(model, prompt, sampler, limit - len(prompt), 16)]


def greedy_without_drafts(hands: Hands, texts: list[Text], limits: list[int], chunk: int) -> None:
    for text in texts:
        text.tokens.append(int(hands.prefill(text, chunk).argmax()))
    while going := [number for number, text in enumerate(texts) if len(text.tokens) < limits[number]]:
        segments = [(texts[number], hands.segment(texts[number], 1, prefill=False)) for number in going]
        for number, logits in zip(going, hands.run(segments), strict=True):
            texts[number].tokens.append(int(logits.argmax()))


@pytest.mark.parametrize("dtype", BITS, ids=str)
@pytest.mark.parametrize("name", ["all parts", "paged prompts", "dense attention"])
@pytest.mark.parametrize("native", [True, False], ids=["native", "operators"])
def test_invariant_logits_have_the_same_bits_in_any_company(
    name: str, dtype: torch.dtype, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not native:
        monkeypatch.setattr("homegrown.model.native.native_reason", lambda model: "a test")
    config = CONFIGS[name]
    model = talker(config, seed=5, dtype=dtype)
    tokens, others = batch(config, 2, 45, seed=1)[0].tolist()
    true = expected(model, tokens, [16, 16, 3], 35)
    for seed in range(3):
        numbers = random.Random(seed)
        hands = Hands(model, invariant=True, seed=seed)
        text, companion = Text(tokens), Text(others)
        hands.prefill(companion, 8, stop=numbers.randint(1, 30))
        got = []
        for count in (16, 16, 3, 1, 2, 4, 1, 2):
            prefill = text.done < 35
            company = hands.segment(companion, 1, prefill=numbers.random() < 0.5)
            pair = [(companion, company), (text, hands.segment(text, count, prefill, wanted=count))]
            got.append(hands.run(pair)[1])
        assert torch.equal(torch.cat(got), true)


def test_replayed_tokens_have_the_bits_of_decoding() -> None:
    """Keys, draft rows and states that were dropped come back the same, all in one pass."""
    model = talker(small(), seed=5, noise=1.5)
    hands = Hands(model, invariant=True)
    text = Text(batch(small(), 1, 20, seed=1)[0][0].tolist())
    hands.speculate([text], [44], 3, chunk=16)
    done = len(text.tokens) - 1
    again = Text(list(text.tokens))
    hands.prefill(again, 16, stop=20)
    hands.run([(again, hands.segment(again, done - 20, prefill=False, replay=True, wanted=0))])
    whole = done // 4
    before, after = (hands.pool.save(pages[:whole]).tensors for pages in (text.pages, again.pages))
    assert all(map(torch.equal, before, after))


def test_real_experts_are_counted_per_token() -> None:
    config = small()
    model = talker(config, seed=5, dtype=torch.float64)
    tokens = batch(config, 1, 25, seed=1)[0][0].tolist()
    with torch.inference_mode():
        trunk = model.trunk(as_row(tokens, torch.device("cpu")), model.context(torch.tensor([tokens])))
    layers = [(routing.index_NK < config.n_routed_experts).sum(1) for routing in trunk.routing]
    mean = torch.stack(layers).float().mean(0)
    assert len(set(mean.tolist())) > 1
    for invariant in (False, True):
        hands = Hands(model, invariant=invariant)
        text, other = Text(tokens), Text(tokens[:9])
        hands.prefill(text, 10, stop=20)
        hands.run([(text, hands.segment(text, 5, prefill=False)), (other, hands.segment(other, 9, prefill=True))])
        torch.testing.assert_close(hands.runner.real_experts(), torch.cat((mean[20:], mean[:9])))


def test_nothing_wanted_and_nothing_to_do() -> None:
    model = talker(small(), seed=1)
    hands = Hands(model)
    text = Text([5, 6, 7])
    (logits,) = hands.run([(text, hands.segment(text, 3, prefill=True, wanted=0))])
    assert logits.shape == (0, small().vocab_size)
    assert hands.run([]) == []
    assert hands.runner.real_experts().shape == (0,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": []}, "segment 0: no tokens; at least one is needed"),
        ({"pages": [1]}, "segment 0: 1 pages of 4 positions have no room for 2 behind 3"),
        ({"earlier": [4]}, "segment 0: 1 earlier tokens; n-gram hashing needs 2"),
    ],
)
def test_segments_that_cannot_be_run_are_refused(changes: dict[str, Any], message: str) -> None:
    hands = Hands(talker(small(), seed=1))
    text = Text([5, 6, 7, 8, 9])
    hands.prefill(text, 3, stop=3)
    segment = hands.segment(text, 2, prefill=True)
    for name, value in changes.items():
        setattr(segment, name, value)
    with pytest.raises(ValueError, match=message):
        hands.run([(text, segment)])
