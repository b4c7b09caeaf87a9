"""The model in float64 against the slow reference in tests/reference.py.

Every part of the model computes in float64 when its weights are float64, the router included, so both sides differ by
rounding alone (1e-16 a step): 1e-10 leaves room for depth and sharp softmaxes and none for another formula.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from homegrown import ops
from homegrown.config import ModelConfig, SparseConfig
from homegrown.model import Cache, CachedContext, Draft, Longcat
from homegrown.train.losses import WholeRows
from tests import reference
from tests.model.small import batch, small
from tests.model.twin import built, tiny

TOLERANCE = {"atol": 1e-10, "rtol": 1e-9}

SWITCHES: dict[str, ModelConfig] = {
    "longcat-2.0": small(),
    "flash": tiny(),
    "flash with mtp": tiny(mtp=small().mtp),
    "flash-lite": small(sparse=SparseConfig()),
    "lsa without n-grams": small(ngram=tiny().ngram),
    "zero experts unscaled": small(scale_zero_experts=False),
    "zero experts drop": small(zero_expert_type="drop"),
    "gates renormalised": small(norm_topk_prob=True),
    "gates renormalised, zero experts unscaled": small(norm_topk_prob=True, scale_zero_experts=False),
    "router bias": small(router_bias=True),
    "no zero experts": small(zero_expert_num=0),
    "no q scale": small(mla_scale_q_lora=False),
    "no kv scale": small(mla_scale_kv_lora=False),
    "latent eps": small(latent_norm_eps=0.1),
    "rms eps": small(rms_norm_eps=0.1),
    "plain rope": small(rope=tiny().rope),
    "mscales absent": small(rope={"mscale_all_dim": 0.0}),
    "n-gram residual": small(ngram={"fusion": "residual"}),
    "n-gram sequential": small(ngram={"accumulate": "sequential"}),
    "n-gram residual, sequential": small(ngram={"fusion": "residual", "accumulate": "sequential"}),
    "n-gram order 5": small(ngram={"order": 5, "splits": 1}),
    "n-gram bigrams": small(ngram={"order": 2, "splits": 4}),
    "index keys layer norm": small(sparse={"k_norm": "layer"}),
    "index keys eps": small(sparse={"k_norm_eps": 0.5}),
    "index rope half-split": small(sparse={"rope_interleaved": False}),
    "index unscaled": small(sparse={"scale_scores": False}),
    "index head as wide as rope": small(sparse={"head_dim": 8}),
    "owner every sublayer": small(sparse={"share": 1}),
    "one owner": small(sparse={"share": 4}),
    "no sinks": small(sparse={"init_tokens": 0}),
    "only sinks and window": small(sparse={"topk": 5}),
    "budget above length": small(sparse={"topk": 200}),
    "gathered keys": small(sparse={"topk": 4, "init_tokens": 1, "local_tokens": 1}),
    "draft dense": small(mtp={"indexer": False}),
    "draft chains before the norm": small(mtp={"chain": "pre_norm"}),
}


def run_model(model: Longcat, tokens: Tensor, first: Tensor) -> tuple[Tensor, Tensor, list[Tensor], list[Draft]]:
    """Hidden states, logits, routed experts and drafts of the real model, wired as in training."""
    context = model.context(tokens, first)
    trunk = model.trunk(tokens, context)
    drafts: list[Draft] = []
    if model.mtp is not None:
        chained = model.draft_start(trunk)
        selection = None
        for ahead in range(1, model.config.mtp.steps + 1):
            following = torch.nn.functional.pad(tokens[:, ahead:], (0, ahead))
            history = WholeRows().drafted(context, torch.nn.functional.pad(tokens, (0, 1)), ahead)
            drafts.append(model.draft(following, chained, context, selection, history))
            chained, selection = drafts[-1].chained, drafts[-1].selection
    return trunk.hidden, model.logits(trunk.output), [layer.index_NK for layer in trunk.routing], drafts


def compare(config: ModelConfig, tokens: Tensor, first: Tensor, seed: int = 3) -> None:
    """Everything the model computes for a batch equals the reference's."""
    weights = reference.random_weights(config, seed)
    model = built(config, weights)
    with torch.no_grad():
        hidden, logits, chosen, drafts = run_model(model, tokens, first)
        documents = reference.run(weights, config, tokens, first, mtp=bool(drafts))
    torch.testing.assert_close(hidden, reference.batch_of((d.hidden for d in documents), tokens), **TOLERANCE)
    torch.testing.assert_close(logits, reference.batch_of((d.logits for d in documents), tokens), **TOLERANCE)
    for layer, index in enumerate(chosen):
        expected = [sorted(row) for document in documents for row in document.routings[layer].chosen]
        assert index.sort(-1).values.tolist() == expected
    for d, draft in enumerate(drafts, start=1):
        # Only rows whose drafted token lies in their own document mean anything.
        found = model.logits(draft.output).flatten(0, 1).split([len(document.tokens) for document in documents])
        for document, rows in zip(documents, found, strict=True):
            if len(document.steps) >= d:
                expected_rows = document.steps[d - 1].logits
                torch.testing.assert_close(rows[: len(expected_rows)], expected_rows, **TOLERANCE)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("name", SWITCHES)
def test_packed_documents(name: str) -> None:
    compare(SWITCHES[name], *batch(SWITCHES[name], rows=2, length=40, seed=7, packed=True))


@pytest.mark.parametrize("name", ["longcat-2.0", "flash with mtp", "gathered keys", "one owner", "index unscaled"])
def test_whole_rows(name: str) -> None:
    compare(SWITCHES[name], *batch(SWITCHES[name], rows=2, length=40, seed=8))


def test_ngrams_across_eos() -> None:
    config = small(ngram={"stop_at_eos": False})
    compare(config, *batch(config, rows=2, length=30, seed=9))


def test_ngrams_stop_at_documents_that_no_eos_ended() -> None:
    config = small(ngram={"stop_at_eos": False})
    compare(config, *batch(config, rows=2, length=30, seed=9, packed=True))


def test_drafts_with_ngrams() -> None:
    """A drafted token's n-grams look back over all tokens before it, the first of the row included."""
    config = small(mtp={"use_ngram": True})
    compare(config, *batch(config, rows=2, length=30, seed=9))


@pytest.mark.parametrize("name", ["longcat-2.0", "flash-lite"])
def test_forward_is_trunk_and_head(name: str) -> None:
    config = SWITCHES[name]
    weights = reference.random_weights(config, 1)
    tokens, _ = batch(config, rows=2, length=30, seed=2)
    documents = reference.run(weights, config, tokens)
    logits = built(config, weights)(tokens)
    torch.testing.assert_close(logits, reference.batch_of((d.logits for d in documents), tokens), **TOLERANCE)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("sparse", [{}, {"topk": 4, "init_tokens": 1, "local_tokens": 1}], ids=["masked", "gathered"])
def test_gradients_of_the_whole_model(sparse: dict[str, Any]) -> None:
    """Hand-written backward passes against autograd through the reference, on a loss that weighs every logit."""
    config = small(mtp={"layers": 0}, sparse=sparse)
    weights = reference.random_weights(config, 4)
    tokens, first = batch(config, rows=2, length=40, seed=5, packed=True)
    direction = torch.randn(2, 40, config.vocab_size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model = built(config, weights)
    (model.logits(model.trunk(tokens, model.context(tokens, first)).output) * direction).sum().backward()
    leaves = {name: value.requires_grad_() for name, value in weights.items()}
    documents = reference.run(leaves, config, tokens, first)
    (reference.batch_of((d.logits for d in documents), tokens) * direction).sum().backward()
    for name, parameter in model.named_parameters():
        expected = leaves[name].grad
        if ".indexer." in name:
            assert parameter.grad is None and expected is None, "choosing keys has no gradient"
        else:
            torch.testing.assert_close(
                parameter.grad, expected, atol=1e-9, rtol=1e-8, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.parametrize("chunks", [[40], [1] * 40, [13, 1, 1, 9, 16], [3, 37]])
@pytest.mark.parametrize("name", ["longcat-2.0", "flash", "one owner", "n-gram order 5"])
def test_cached_chunks(name: str, chunks: list[int]) -> None:
    """Prefill in chunks and single steps, across n-gram and EOS boundaries, equal the whole sequence."""
    config = SWITCHES[name]
    weights = reference.random_weights(config, 6)
    tokens, _ = batch(config, rows=2, length=40, seed=10)
    model = built(config, weights)
    cache = Cache.empty(config, 2, 64, "cpu", torch.float64)
    outputs = []
    with torch.no_grad():
        for part in tokens.split(chunks, dim=1):
            context = CachedContext(config, cache, part.shape[1], torch.float64)
            outputs.append(model.logits(model.trunk(part, context).output))
            context.commit()
    documents = reference.run(weights, config, tokens)
    torch.testing.assert_close(
        torch.cat(outputs, 1), reference.batch_of((d.logits for d in documents), tokens), **TOLERANCE
    )


def test_positions_restart_in_every_document() -> None:
    """Attention depends on distances only, so logits cannot show it; long rows of documents would lose precision."""
    first = torch.tensor([[0, 0, 2, 2, 2, 5]])
    assert ops.Span.packed(first).positions.tolist() == [[0, 1, 0, 1, 2, 0]]


# --- selection alone ------------------------------------------------------------------------------------------------


def chosen_keys(config: ModelConfig, index: reference.Index, first: Tensor, paged: bool = False) -> list[list[int]]:
    """The real selection for one row, as lists of positions."""
    span = ops.Span.packed(first[None])
    found = ops.select(index.q.transpose(0, 1)[None], index.k[None], index.w[None], span, config.sparse, paged)
    return [[s for s in row if s >= 0] for row in found[0].tolist()]


def random_index(config: ModelConfig, S: int, seed: int, coarse: bool = False) -> reference.Index:
    """Random index tensors; coarse ones hold small integers, so that most scores tie."""
    generator = torch.Generator().manual_seed(seed)
    sparse = config.sparse

    def values(*shape: int) -> Tensor:
        if coarse:
            return torch.randint(-1, 2, shape, generator=generator).double()
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return reference.Index(
        values(sparse.heads, S, sparse.head_dim), values(S, sparse.head_dim), values(S, sparse.heads)
    )


def expected_keys(config: ModelConfig, index: reference.Index, owner: int = 0) -> list[list[int]]:
    return [row.nonzero()[:, 0].tolist() for row in reference.select(config, index, owner)]


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("coarse", [False, True], ids=["distinct scores", "ties"])
@pytest.mark.parametrize("changes", [{}, {"init_tokens": 0}, {"local_tokens": 1}, {"topk": 5}, {"topk": 39}])
def test_selection(changes: dict[str, Any], coarse: bool) -> None:
    """Sinks, window, best of the rest; equal scores go to the lowest position."""
    config = small(sparse=changes | ({"heads": 2, "head_dim": 8} if coarse else {}))
    index = random_index(config, 60, seed=3, coarse=coarse)
    assert chosen_keys(config, index, torch.zeros(60, dtype=torch.int64)) == expected_keys(config, index)


def test_all_scores_equal() -> None:
    """With nothing to tell keys apart the budget goes to sinks, window and the earliest of the rest."""
    config = small(sparse={"topk": 8, "init_tokens": 1, "local_tokens": 2})
    index = random_index(config, 30, seed=4)
    index.w.zero_()
    chosen = chosen_keys(config, index, torch.zeros(30, dtype=torch.int64))
    assert chosen[29] == [0, 1, 2, 3, 4, 5, 28, 29]
    assert chosen[5] == [0, 1, 2, 3, 4, 5]


@pytest.mark.usefixtures("small_blocks")
def test_selection_in_packed_documents() -> None:
    """Each document's own first tokens are its sinks, and nothing outside it is chosen."""
    config = small()
    lengths = [25, 1, 2, 30]
    first = torch.cat([torch.full((n,), sum(lengths[:i])) for i, n in enumerate(lengths)])
    index = random_index(config, sum(lengths), seed=6)
    expected = []
    for start, length in zip([0, 25, 26, 28], lengths, strict=True):
        part = slice(start, start + length)
        document = reference.Index(index.q[:, part], index.k[part], index.w[part])
        expected += [[start + s for s in row] for row in expected_keys(config, document)]
    assert chosen_keys(config, index, first) == expected


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("pages", [2, 4])
def test_hierarchical_selection(pages: int) -> None:
    """Keys of the best pages only; the window covers the page that is not whole yet."""
    paging = {
        "hierarchical": True, "hierarchical_threshold": 1, "hierarchical_skip_owners": 0, "page_size": 8,
        "page_block": 4, "page_topk": pages, "local_tokens": 8, "topk": 14,
    }  # fmt: skip
    config = small(sparse=paging)
    index = random_index(config, 100, seed=8)
    found = chosen_keys(config, index, torch.zeros(100, dtype=torch.int64), paged=True)
    assert found == expected_keys(config, index)
    assert found != chosen_keys(config, index, torch.zeros(100, dtype=torch.int64)), "pages make a difference here"
