"""Passes of few rows in C against the model in float64, and against themselves in other company."""

from __future__ import annotations

import copy
import os
import random
from typing import Any

import pytest
import torch
from torch import Tensor

from homegrown import ops
from homegrown.config import ModelConfig
from homegrown.generate.decode import as_row, empty_cache, extend, last_logits
from homegrown.model import Longcat
from homegrown.model.int8 import Int8Weight, quantise
from homegrown.model.native import Keys, NativeModel, Rows, native, native_reason, native_words
from homegrown.ops import dequantise
from tests.generate.talker import talker
from tests.model.small import batch, small

CONFIGS: dict[str, ModelConfig] = {
    "all parts": small(),
    "dense attention": small(sparse={"topk": 0}, mtp={"layers": 0}),
    "no n-grams, plain angles": small(ngram={"order": 0}, rope={"type": "none"}, sparse={"share": 1}),
    "layer norm, router bias, halves": small(
        sparse={"k_norm": "layer", "rope_interleaved": False, "scale_scores": False}, router_bias=True
    ),
    "gates": small(norm_topk_prob=True, scale_zero_experts=False, routed_scaling_factor=3.0),
    "zero experts drop": small(zero_expert_type="drop", sparse={"share": 4}),
    "no zero experts, no corrections": small(zero_expert_num=0, mla_scale_q_lora=False, mla_scale_kv_lora=False),
    "widths of sixteen": small(
        hidden_size=64, q_lora_rank=48, kv_lora_rank=80, qk_nope_head_dim=16, qk_rope_head_dim=16, v_head_dim=32,
        ffn_hidden_size=128, expert_ffn_hidden_size=32, num_attention_heads=20, num_layers=1,
        sparse={"head_dim": 16},
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def compiled() -> None:
    if reason := native_reason(talker(CONFIGS["dense attention"], seed=0)):
        pytest.skip(reason)


def with_biases(model: Longcat) -> Longcat:
    """Routers that correct, and norms that weigh."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for router in model.routers():
            bias = router.e_score_correction_bias
            bias += 0.05 * torch.randn(bias.shape, generator=generator)
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


def wide(model: Longcat) -> Longcat:
    """The same weights in float64."""
    return copy.deepcopy(model).double()


def true_logits(model: Longcat, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return model.double()(tokens)[0]


def natively(model: Longcat, tokens: Tensor, counts: list[int]) -> tuple[Tensor, list[Tensor]]:
    """Logits behind all tokens, which come so many at a time; all keys."""
    side = native(model)
    assert side is not None
    cache = empty_cache(model, tokens.shape[1])
    rows = [side.logits(extend(model, cache, part).output)[0] for part in tokens.split(counts, dim=1)]
    return torch.cat(rows), [*cache.latent.values(), *cache.index.values()]


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_the_model_in_float64(name: str) -> None:
    """Rows that see few keys and rows that choose; one at a time, several, and more than one call takes."""
    model = with_biases(talker(CONFIGS[name], seed=11, noise=1.0))
    tokens, _ = batch(model.config, 1, 150, seed=12)
    logits, _ = natively(model, tokens, [1, 1, 2, 3, 33, 70, 8, 7, 15, 10])
    true = true_logits(wide(model), tokens)
    torch.testing.assert_close(logits.double(), true, rtol=0, atol=2e-5 * float(true.abs().max()))


def test_half_the_bits() -> None:
    """bfloat16 weights and keys: what differs is how keys and final states are rounded."""
    model = talker(small(sparse={"topk": 0}), seed=3, noise=1.0, dtype=torch.bfloat16)
    tokens, _ = batch(model.config, 1, 60, seed=4)
    logits, _ = natively(model, tokens, [1] * 20 + [40])
    true = true_logits(wide(model), tokens)
    assert float((logits.double() - true).square().mean().sqrt() / true.square().mean().sqrt()) < 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_eight_bits(dtype: torch.dtype) -> None:
    model = quantise(talker(small(sparse={"topk": 0}), seed=5, noise=1.0), dtype)
    tokens, _ = batch(model.config, 1, 40, seed=6)
    logits, _ = natively(model, tokens, [1, 1, 5, 33])
    plain = Longcat(model.config).double()
    weights: dict[str, Tensor] = dict(model.state_dict())
    for name, module in model.named_modules():
        if isinstance(module, Int8Weight):
            del weights[f"{name}.values"], weights[f"{name}.scale"]
            weights[name] = dequantise(module.weight)
    plain.load_state_dict(weights)
    true = true_logits(plain, tokens)
    error = float((logits.double() - true).square().mean().sqrt() / true.square().mean().sqrt())
    assert error < (1e-5 if dtype == torch.float32 else 0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["all parts", "dense attention", "widths of sixteen"])
def test_the_same_bits_in_any_company(name: str, dtype: torch.dtype) -> None:
    """Alone in one long page, and in passes of rows of three texts over scattered pages, on one to three threads."""
    model = talker(CONFIGS[name], seed=7, noise=1.0, dtype=dtype)
    config, side, numbers = model.config, NativeModel(model), random.Random(name)
    texts = [batch(config, 1, length, seed=length)[0] for length in (40, 71, 20)]
    alone = [natively(model, text, [1] * text.shape[1]) for text in texts]
    inputs = [embedded(model, text) for text in texts]
    size, threads = 4, torch.get_num_threads()
    order = numbers.sample(range(1, 60), 54)
    pages = [order[:12], order[12:32], order[32:]]
    like = empty_cache(model, 60 * size)
    keys = Keys({s: k[0] for s, k in like.latent.items()}, {s: k[0] for s, k in like.index.items()}, size)
    done, got = [0, 0, 0], [list[Tensor]() for _ in texts]
    try:
        while any(at < text.shape[1] for at, text in zip(done, texts, strict=True)):
            torch.set_num_threads(numbers.randint(1, 3))
            rows, hidden = [], []
            for number in numbers.sample(range(3), 3):
                count = min(numbers.randint(0, 5), texts[number].shape[1] - done[number])
                if count:
                    rows.append((number, Rows(done[number], count, pages[number])))
                    hidden.append(inputs[number][done[number] : done[number] + count])
                    done[number] += count
            if rows:
                with torch.inference_mode():
                    trunk = side.trunk(torch.cat(hidden)[None], [own for _, own in rows], keys)
                parts = side.logits(trunk.output)[0].split([own.count for _, own in rows])
                for (number, _), part in zip(rows, parts, strict=True):
                    got[number].append(part)
    finally:
        torch.set_num_threads(threads)
    for number, (logits, own) in enumerate(alone):
        assert torch.equal(torch.cat(got[number]), logits)
        places = [pages[number][at // size] * size + at % size for at in range(logits.shape[0])]
        slots = range(config.attention_sublayers)
        for slot in slots:
            assert torch.equal(keys.latent[slot][places], own[slot][0])


def embedded(model: Longcat, text: Tensor) -> Tensor:
    """[S, H], each row as if alone."""
    with torch.inference_mode(), ops.row_by_row():
        return model.embed(text, model.context(text))[0]


def test_routing_is_reported() -> None:
    model = with_biases(talker(small(sparse={"topk": 0}, ngram={"order": 0}), seed=2))
    tokens, _ = batch(model.config, 1, 70, seed=2)
    trunk = extend(model, empty_cache(model, 70), tokens)
    with torch.no_grad():
        true = model.trunk(tokens, model.context(tokens))
    for ours, theirs in zip(trunk.routing, true.routing, strict=True):
        order, own_order = theirs.index_NK.argsort(-1), ours.index_NK.argsort(-1)
        assert torch.equal(ours.index_NK.gather(1, own_order), theirs.index_NK.gather(1, order))
        torch.testing.assert_close(ours.gate_NK.gather(1, own_order), theirs.gate_NK.gather(1, order))
        torch.testing.assert_close(ours.prob_sum, theirs.prob_sum)
        assert torch.equal(ours.counts, theirs.counts)
    torch.testing.assert_close(trunk.hidden, true.hidden, rtol=1e-4, atol=1e-4)


def test_ties_go_to_the_first_experts() -> None:
    model = talker(small(sparse={"topk": 0}), seed=2)
    with torch.no_grad():
        for router in model.routers():
            router.classifier.weight.zero_()
    trunk = extend(model, empty_cache(model, 3), as_row([5, 6, 7], torch.device("cpu")))
    assert all(routing.index_NK.tolist() == [[0, 1, 2, 3]] * 3 for routing in trunk.routing)


def test_tokens_are_those_of_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    """Greedy texts of float32 models, in which the best token is clear."""
    texts: list[list[list[int]]] = []
    for reason in ("", "a test"):
        monkeypatch.setattr("homegrown.model.native._missing", lambda reason=reason: reason)
        texts.append([])
        for seed in range(3):
            model = talker(small(), seed=seed, noise=0.5)
            assert bool(native_reason(model)) == bool(reason)
            cache, text = empty_cache(model, 60), [seed + 5]
            while len(text) < 60:
                trunk = extend(model, cache, as_row(text[-1:], torch.device("cpu")))
                text.append(int(last_logits(model, trunk.output).argmax()))
            texts[-1].append(text)
    assert texts[0] == texts[1]


def test_weights_that_change_are_seen() -> None:
    model = talker(small(), seed=1)
    tokens, _ = batch(model.config, 1, 20, seed=1)
    before = natively(model, tokens, [20])[0]
    with torch.no_grad():
        model.layers["0"].mlps[0].down_proj.weight.mul_(2.0)  # in place
    changed = natively(model, tokens, [20])[0]
    last = model.layers["1"].self_attn[1].o_proj
    last.weight = torch.nn.Parameter(torch.zeros_like(last.weight))
    replaced = natively(model, tokens, [20])[0]
    assert not torch.equal(before, changed) and not torch.equal(changed, replaced)
    true = true_logits(wide(model), tokens)
    torch.testing.assert_close(replaced.double(), true, rtol=0, atol=2e-5 * float(true.abs().max()))
    assert native(model.double()) is None


def test_what_is_no_number_stays_none() -> None:
    model = talker(small(), seed=1)
    with torch.no_grad():
        model.layers["0"].mlps[0].down_proj.weight[0] = torch.nan
    tokens, _ = batch(model.config, 1, 90, seed=1)
    assert not natively(model, tokens, [40, 50])[0].isfinite().any()


def test_a_forked_child_computes() -> None:
    model = talker(small(), seed=1)
    tokens, _ = batch(model.config, 1, 5, seed=1)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        natively(model, tokens, [5])
        child = os.fork()
        if child == 0:
            os._exit(0 if natively(model, tokens, [5])[0].isfinite().all() else 1)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        torch.set_num_threads(threads)


def test_why_not_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = talker(small(), seed=1)
    assert native_words(model) == "native, one call a pass"
    assert "not torch.float64 on cpu" in native_words(model.double())
    assert "a part" in native_words(talker(small(), seed=1).cut(range(1, 2), first=False, last=True))
    monkeypatch.setattr("homegrown.model.native._missing", lambda: "there is no C compiler 'cc'")
    assert native_words(talker(small(), seed=1)) == "PyTorch's operators (there is no C compiler 'cc')"


@pytest.mark.parametrize("chain", ["post_norm", "pre_norm"])
@pytest.mark.parametrize("sparse", [{"topk": 0}, {}], ids=["dense", "chosen keys"])
def test_the_draft_block(sparse: dict[str, int], chain: str) -> None:
    """Rows of two sequences, one row further than their states in their pages, against the block in float64."""
    model = with_biases(talker(small(sparse=sparse, mtp={"chain": chain}), seed=9, noise=1.0))
    side, size, length = NativeModel(model), 4, 20
    tokens, _ = batch(model.config, 2, length, seed=9)
    states = torch.randn(2, length, model.config.hidden_size, generator=torch.Generator().manual_seed(9))
    true = wide(model)
    with torch.no_grad():
        expected = true.draft(tokens, states.double(), true.context(tokens))
    slot = model.config.attention_sublayers
    like = empty_cache(model, 16 * size)
    index = {slot: like.index[slot][0]} if slot in like.index else {}
    keys = Keys({slot: like.latent[slot][0]}, index, size, shift=1)
    pages = [[3, 9, 1, 14, 2, 11], [8, 4, 5, 10, 12, 6]]
    made = []
    for start, count in ((0, 1), (1, 2), (3, 17)):
        stop = start + count
        with torch.inference_mode():
            words = model.embed_tokens(tokens[:, start:stop])
            made.append(side.draft(words, states[:, start:stop], [Rows(start, count, own) for own in pages], keys)[0])
    for field in ("output", "chained"):
        got = torch.cat([getattr(draft, field) for draft in made], dim=1).double()
        torch.testing.assert_close(got, getattr(expected, field), rtol=0, atol=1e-5)
