import importlib

import pytest
import torch

from homegrown import ops
from homegrown.config import SparseConfig
from homegrown.ops import Span

from .compare import TOLERANCE, relative
from .test_attention import LENGTH, causal, choose, keys, later, packed, queries

module = importlib.import_module("homegrown.ops.attention")

BATCH, INDEX_HEADS, WIDTH, SCALE = 2, 16, 6, 0.3
CONFIG = SparseConfig(topk=12, heads=INDEX_HEADS, head_dim=WIDTH, init_tokens=2, local_tokens=4)


@pytest.fixture(autouse=True)
def few_queries_a_chunk(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 8)


def index_of(span: Span) -> list[torch.Tensor]:
    count = span.first.shape[1]
    shapes = ((BATCH, count, INDEX_HEADS, WIDTH), (BATCH, LENGTH, WIDTH), (BATCH, count, INDEX_HEADS))
    return [torch.randn(shape, dtype=torch.float64) for shape in shapes]


def plain_scores(q, key, weight):
    """I[t, s] = Σ_j w[t, j] ReLU(q[t, j] · k[s]), loop by loop."""
    scores = torch.zeros(q.shape[0], q.shape[1], key.shape[1], dtype=torch.float64)
    for head in range(q.shape[2]):
        for row in range(q.shape[0]):
            scores[row] += weight[row, :, head, None] * (q[row, :, head] @ key[row].T).clamp(min=0)
    return scores


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_index_scores(dtype):
    rounded = [item.to(dtype) for item in index_of(causal())]
    assert relative(ops.index_scores(*rounded), plain_scores(*(item.double() for item in rounded))) < TOLERANCE[dtype]


@pytest.mark.parametrize("span", [causal, packed, later])
def test_selection_is_sinks_window_and_the_best_of_the_rest(span):
    span = span()
    # Scores are taken in float32, so the ranking is compared in float32 too.
    index = [item.float() for item in index_of(span)]
    chosen = ops.select(*index, span, CONFIG)
    scores = ops.index_scores(*index)
    assert chosen.shape == (*span.first.shape, CONFIG.topk)
    for row in range(BATCH):
        for t in range(chosen.shape[1]):
            first, last = int(span.first[row, t]), int(span.last[row, t])
            seen = set(range(first, last + 1))
            fixed = {s for s in seen if s < first + CONFIG.init_tokens or s > last - CONFIG.local_tokens}
            rest = sorted(seen - fixed, key=lambda s: (-float(scores[row, t, s]), s))
            wanted = sorted(fixed | set(rest[: CONFIG.topk - len(fixed)]))
            assert chosen[row, t].tolist()[: len(wanted)] == wanted
            assert set(chosen[row, t].tolist()[len(wanted) :]) <= {-1}


def test_ties_go_to_the_lowest_position():
    span = Span.causal(BATCH, LENGTH)
    q, key, weight = (torch.zeros_like(item) for item in index_of(span))
    last = ops.select(q, key, weight, span, CONFIG)[0, -1].tolist()
    fixed = CONFIG.init_tokens + CONFIG.local_tokens
    assert last == [*range(CONFIG.topk - CONFIG.local_tokens), *range(LENGTH - CONFIG.local_tokens, LENGTH)]
    assert fixed < CONFIG.topk


def test_paged_selection_with_room_for_all_pages_is_the_plain_one():
    config = SparseConfig(
        topk=12, heads=INDEX_HEADS, head_dim=WIDTH, init_tokens=2, local_tokens=8, page_size=4, page_block=2,
        page_topk=100,
    )  # fmt: skip
    span, index = causal(), [item.float() for item in index_of(causal())]
    assert torch.equal(ops.select(*index, span, config, paged=True), ops.select(*index, span, config))


@pytest.mark.parametrize("span", [causal, packed])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_indexer_loss(span, sparse, dtype, tolerance):
    """Value and gradients against KL(p ‖ softmax(I)) written out under autograd in float64."""
    span = span()
    index = [item.to(dtype) for item in index_of(span)]
    core = [item.to(dtype) for item in (queries(span), *keys())]
    selected = choose(span, 6) if sparse else None

    leaves = [item.double().clone().requires_grad_() for item in index]
    wanted = plain_loss(leaves, [item.double() for item in core], span, selected)
    wanted.backward()

    given = [item.clone().requires_grad_() for item in index]
    base = [item.clone().requires_grad_() for item in core]
    targets = ops.core_targets(tuple(base), span, SCALE, selected)
    got = ops.indexer_loss(tuple(given), targets, span, selected) / span.first.numel()
    (3 * got).backward()
    assert relative(got.detach(), wanted.detach()) < tolerance
    for leaf, expected in zip(given, leaves, strict=True):
        assert relative(leaf.grad / 3, expected.grad) < tolerance
    assert all(item.grad is None for item in base)


def plain_loss(index, core, span, selected):
    q, kv, rope_key = core
    scores, total = ops.index_scores(*index), torch.zeros((), dtype=torch.float64)
    nope = q.shape[-1] - rope_key.shape[-1]
    for row in range(q.shape[0]):
        for t in range(q.shape[1]):
            seen = list(range(int(span.first[row, t]), int(span.last[row, t]) + 1))
            if selected is not None:
                seen = [s for s in seen if s in selected[row, t].tolist()]
            dots = torch.einsum("hd,shd->hs", q[row, t, :, :nope], kv[row, seen, :, :nope])
            dots = dots + q[row, t, :, nope:] @ rope_key[row, seen].T
            target = (dots * SCALE).softmax(-1).mean(0)
            total = total + (target * (target.log() - scores[row, t, seen].log_softmax(-1))).sum()
    return total / (q.shape[0] * q.shape[1])


def test_hooks_of_the_graph_around_it_do_not_see_the_losses_own():
    """Else a checkpointed layer would be recomputed by every chunk of its loss, in the forward pass."""
    saved = []
    span = Span.causal(2, 12)
    index = [torch.randn(*shape, requires_grad=True) for shape in ((2, 12, 2, 4), (2, 12, 4), (2, 12, 2))]
    core = (torch.randn(2, 12, 2, 6), torch.randn(2, 12, 2, 8), torch.randn(2, 12, 2))
    targets = ops.core_targets(core, span, 0.3, None)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        ops.indexer_loss(index, targets, span, None)
    assert [tensor.shape for tensor in saved] == [tensor.shape for tensor in index]
