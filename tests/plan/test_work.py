"""FLOPs of a token: every row of what publications imply, and closed forms against sums."""

import dataclasses

import pytest

from homegrown.plan.facts import Attention
from homegrown.plan.shapes import preset_shape
from homegrown.plan.work import draft_work, flops, lookup_bytes, scored, seen, work
from tests.plan.published import DEEPSEEK_V3, KIMI_K2, LLAMA_70B, LLAMA_405B, QWEN_30B, QWEN_235B, gpt

TWO = preset_shape("longcat-2.0")


def trained(shape, sequence, causal=True, draft=False, router=False):
    """GFLOP of a token in forward and backward passes."""
    return 3 * flops(shape, sequence, causal).total(draft=draft, router=router) / 1e9


@pytest.mark.parametrize(
    ("found", "published", "within"),
    [
        (trained(DEEPSEEK_V3, 4096), 249.8, 5e-4),  # 385 TFLOP/s at 1,542 tokens/s: arXiv 2505.09343
        (trained(DEEPSEEK_V3, 4096, causal=False), 280.5, 5e-4),  # 432 TFLOP/s at the same pace
        (trained(DEEPSEEK_V3, 4096, draft=True), 260.0, 5e-4),  # 1,648 TFLOP/s at 6,338 tokens/s
        (trained(DEEPSEEK_V3, 4096, draft=True, router=True), 260.6, 5e-4),
        (trained(LLAMA_405B, 8192), 2524.0, 5e-4),  # forty rows of Megatron's tables: 2,521 to 2,530
        (trained(LLAMA_70B, 8192), 449.2, 5e-4),
        (trained(KIMI_K2, 4096), 204.6, 0.02),
        (trained(QWEN_235B, 4096), 148.1, 0.02),
        (trained(QWEN_30B, 4096), 23.0, 0.02),
        (trained(TWO, 8192, router=True), 311, 2e-3),
        (trained(TWO, 131072, router=True), 371, 2e-3),
        (trained(TWO, 262144, router=True), 432, 2e-3),
        (trained(TWO, 1048576, router=True), 799, 2e-3),
    ],
)
def test_training_work_is_what_publications_imply(found, published, within):
    assert found == pytest.approx(published, rel=within)


@pytest.mark.parametrize(
    ("sequence", "attention", "indexer", "dense"),
    [(8192, 5.6, 1.9, 327), (131072, 6.3, 21.0, 901), (262144, 6.4, 41.4, 1513), (1048576, 6.4, 163.8, 5185)],
)
def test_sparse_attention_saves_and_indexers_cost(sequence, attention, indexer, dense):
    found = flops(TWO, sequence)
    assert found.attention / 1e9 == pytest.approx(attention, abs=0.051)
    assert found.indexer / 1e9 == pytest.approx(indexer, abs=0.051)
    group = TWO.layers[0]
    everything = dataclasses.replace(group.attention, budget=0, index_heads=0)
    plain = dataclasses.replace(TWO, layers=(dataclasses.replace(group, attention=everything),), draft=None)
    assert trained(plain, sequence, router=True) == pytest.approx(dense, rel=2e-3)


def test_at_a_million_tokens_the_indexer_is_most_of_the_work():
    found = flops(TWO, 1 << 20)
    assert found.indexer / found.total(draft=False) == pytest.approx(0.61, abs=0.01)


@pytest.mark.parametrize(("iteration_s", "batch", "devices", "published"), [
    (10.3, 768, 1536, 42.4), (10.3, 1536, 3072, 42.3), (8.0, 2304, 6144, 41.0),
])  # fmt: skip
def test_utilisation_of_a_dense_model_counted_with_full_attention(iteration_s, batch, devices, published):
    """Nemotron-4 340B (arXiv 2406.11704 table 2): squared ReLU, so two matrices; 989 TFLOP/s a device."""
    attention = Attention(kind="gqa", heads=96, kv_heads=8, query=192, value=192)
    group = dataclasses.replace(LLAMA_405B.layers[0], count=96, attention=attention, dense=(73728,))
    shape = dataclasses.replace(LLAMA_405B, hidden=18432, vocab=256000, layers=(group,), gated=False)
    per_token = 3 * flops(shape, 4096, causal=False).total()
    utilisation = 100 * batch * 4096 * per_token / (iteration_s * devices * 989e12)
    assert utilisation == pytest.approx(published, abs=0.25)


def test_gpt_takes_what_its_makers_formula_says():
    """arXiv 2104.04473 section 5.1: 72 B s l h^2 (1 + s / 6h + V / 12 l h) forward and backward, attention full."""
    for hidden, heads, layers in ((2304, 24, 24), (12288, 96, 80), (25600, 160, 128)):
        formula = 72 * layers * hidden**2 * (1 + 2048 / (6 * hidden) + 51200 / (12 * layers * hidden))
        assert 3 * flops(gpt(hidden, heads, layers), 2048, causal=False).total() == pytest.approx(formula, rel=1e-12)


def test_bloom_with_everything_recomputed():
    """BLOOM 176B: 2,048 sequences of 2,048 in 105 s on 384 devices are 149 to 150 TFLOP/s with four passes."""
    shape = gpt(14336, 112, 70, vocab=250680)
    found = flops(shape, 2048, causal=False)
    passes = 4 * found.total() - found.head  # the head is not recomputed
    assert 2048 * 2048 * passes / (105 * 384) / 1e12 == pytest.approx(149.5, rel=0.01)


# Keys


@pytest.mark.parametrize(("budget", "sequence"), [(0, 512), (64, 512), (64, 40), (256, 256)])
def test_keys_seen_are_their_mean_over_a_sequence(budget, sequence):
    attention = Attention(kind="gqa", heads=1, kv_heads=1, query=1, value=1, budget=budget)
    # A query at the middle of its token, so that the mean is half the sequence as publications have it.
    visible = [position + 0.5 for position in range(sequence)]
    mean = sum(min(keys, budget or keys) for keys in visible) / sequence
    assert seen(attention, sequence) == pytest.approx(mean, rel=2e-3)
    assert seen(attention, sequence, causal=False) == (min(budget, sequence) if budget else sequence)


@pytest.mark.parametrize(("threshold", "pages"), [(256, 16), (512, 32), (4096, 16), (100, 1000), (128, 60)])
def test_keys_scored_page_by_page_are_their_mean_over_a_sequence(threshold, pages):
    sequence, page, block = 2048, 16, 8
    attention = Attention(
        kind="mla", heads=1, kv_heads=1, query=1, value=1, index_heads=1, index_dim=1, index_page=page,
        index_pages=pages, index_threshold=threshold, index_block=block,
    )  # fmt: skip
    visible = [position + 0.5 for position in range(sequence)]
    cost = [keys if keys < threshold else keys / block + min(keys, pages * page) for keys in visible]
    assert scored(attention, sequence, hierarchical=True) == pytest.approx(sum(cost) / sequence, rel=2e-3)
    assert scored(attention, sequence) == sequence / 2
    expected = sequence / block + min(sequence, pages * page) if threshold < sequence else sequence
    assert scored(attention, sequence, causal=False, hierarchical=True) == expected


def test_the_first_indexers_take_no_short_cut():
    group = TWO.layers[0]
    paged = dataclasses.replace(group.attention, index_pages=1024, index_skip=4)
    shape = dataclasses.replace(TWO, layers=(dataclasses.replace(group, attention=paged),))
    length = 1 << 20
    whole = work(shape, length)["index scoring"]
    found = work(shape, length, hierarchical=True)["index scoring"]
    share = scored(paged, length, hierarchical=True) / scored(paged, length)
    assert found == pytest.approx(whole * (4 + 34 * share) / 38, rel=1e-12)
    assert share < 0.4
    assert flops(shape, length, hierarchical=True).total() < flops(shape, length).total()


# Ends


def test_a_draft_step_is_a_block_a_merge_and_the_head():
    group, step = TWO.draft, draft_work(TWO, 8192)
    assert group is not None
    block = 2 * (111_675_392 - 2048 + 301_989_888) * 3  # its matrices, thrice, without latent norms
    assert step["attention"] + step["dense feed-forward"] == block
    assert step["merge"] == 3 * 4 * 8192**2
    assert step["head"] == 3 * 2 * 8192 * 163840
    assert step["index scoring"] == 2 * 4096 * 32 * 128  # the first step's choice serves all
    assert flops(TWO, 8192).draft == sum(step.values())
    assert flops(LLAMA_70B, 8192).draft == 0


def test_rows_of_ngrams():
    assert work(TWO, 8192)["n-gram projections"] == 2 * 16 * 512 * 8192
    assert lookup_bytes(TWO) == 16 * 1024
    assert lookup_bytes(LLAMA_70B) == 0
