import importlib

import pytest
import torch

from homegrown import ops
from homegrown.ops import Span

from .compare import TOLERANCE, check, relative, run, worst

# The package offers the op under the module's name; these tests turn the module's own knobs.
module = importlib.import_module("homegrown.ops.attention")

BATCH, LENGTH, HEADS, NOPE, ROPE, VALUE, LATENT = 2, 37, 3, 8, 4, 6, 10
SCALE = 0.3


def causal() -> Span:
    return Span.causal(BATCH, LENGTH)


def packed() -> Span:
    """Documents that begin elsewhere in each row, one of a single token."""
    starts = torch.zeros(BATCH, LENGTH, dtype=torch.int64)
    starts[0, 5:], starts[0, 20:], starts[1, 1:], starts[1, 30:], starts[1, 36:] = 5, 20, 1, 30, 36
    return Span.packed(starts)


def later() -> Span:
    """New queries after keys that are there already."""
    return Span.causal(BATCH, LENGTH - 9, past=9)


def queries(span: Span) -> torch.Tensor:
    return torch.randn(BATCH, span.first.shape[1], HEADS, NOPE + ROPE)


def keys() -> list[torch.Tensor]:
    return [torch.randn(BATCH, LENGTH, HEADS, NOPE + VALUE), torch.randn(BATCH, LENGTH, ROPE)]


def choose(span: Span, count: int) -> torch.Tensor:
    """For each query up to `count` of the keys it sees, its own position among them, in no order; −1 fills up."""
    chosen = torch.full((*span.first.shape, count), -1)
    for row, column in torch.cartesian_prod(*(torch.arange(size) for size in span.first.shape)).tolist():
        first, last = int(span.first[row, column]), int(span.last[row, column])
        others = first + torch.randperm(last - first)[: count - 1]
        chosen[row, column, : len(others) + 1] = torch.cat((others, torch.tensor([last])))
    return chosen


def plain(q, kv, rope_key, span, selected=None):
    """Attention as the definition has it: query by query, over the list of keys it sees."""
    out = torch.zeros(*q.shape[:3], VALUE, dtype=q.dtype)
    for row in range(q.shape[0]):
        for t in range(q.shape[1]):
            seen = list(range(int(span.first[row, t]), int(span.last[row, t]) + 1))
            if selected is not None:
                seen = [s for s in seen if s in selected[row, t].tolist()]
            for head in range(HEADS):
                dots = (
                    kv[row, seen, head, :NOPE] @ q[row, t, head, :NOPE] + rope_key[row, seen] @ q[row, t, head, NOPE:]
                )
                out[row, t, head] = (dots * SCALE).softmax(0) @ kv[row, seen, head, NOPE:]
    return out


@pytest.fixture(params=["kept", "recomputed"])
def few_queries_a_chunk(request, monkeypatch):
    """Several chunks, the last one short; probabilities kept for the backward pass or recomputed there."""
    monkeypatch.setattr(module, "CHUNK", 8)
    monkeypatch.setattr(module, "KEPT_PROBS", 1 << 24 if request.param == "kept" else 0)


@pytest.mark.parametrize("span", [causal, packed, later])
@pytest.mark.parametrize("sparse", [False, True])
def test_reference_is_the_definition(span, sparse):
    span = span()
    inputs = [item.double() for item in (queries(span), *keys())]
    selected = choose(span, 6) if sparse else None
    with ops.using(attention="reference"):
        got = ops.attention(*inputs, span, SCALE, selected)
    assert relative(got, plain(*inputs, span, selected)) < 1e-13


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("span", [causal, packed, later])
@pytest.mark.parametrize("sparse", [False, True])
def test_implementations(few_queries_a_chunk, dtype, span, sparse):
    span = span()
    selected = choose(span, 6) if sparse else None
    check("attention", lambda *args: ops.attention(*args, span, SCALE, selected), [queries(span), *keys()], dtype)


def test_kept_and_recomputed_are_the_same_bits(monkeypatch):
    span, inputs = packed(), [queries(packed()), *keys()]
    outcomes = []
    for limit in (1 << 24, 0):
        monkeypatch.setattr(module, "KEPT_PROBS", limit)
        outcomes.append(run(lambda *args: ops.attention(*args, span, SCALE), inputs, torch.float32))
    assert worst(*outcomes) == 0


def test_nothing_is_kept_without_gradients(monkeypatch):
    """Scoring a text must not hold the probabilities of the whole text."""
    span, inputs = causal(), [queries(causal()), *keys()]
    saved = []
    with torch.no_grad(), torch.autograd.graph.saved_tensors_hooks(saved.append, lambda item: item):
        without = ops.attention(*inputs, span, SCALE)
    assert not saved
    assert torch.equal(without, ops.attention(*inputs, span, SCALE))


def test_a_key_no_query_sees_has_no_gradient():
    span = packed()
    q, kv, rope_key = (item.requires_grad_() for item in (queries(span), *keys()))
    # The last token of row 1 is a document of its own: earlier queries never see it, and it sees only itself.
    ops.attention(q, kv, rope_key, span, SCALE)[1, :36].sum().backward()
    assert kv.grad[1, 36].abs().max() == 0
    assert rope_key.grad[1, 36].abs().max() == 0


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("span", [causal, packed, later])
@pytest.mark.parametrize("sparse", [False, True])
def test_latent_attention_is_attention_over_expanded_keys(monkeypatch, dtype, span, sparse):
    monkeypatch.setattr(module, "CHUNK", 8)
    span = span()
    selected = choose(span, 6) if sparse else None
    cache, kv_b = torch.randn(BATCH, LENGTH, LATENT + ROPE), torch.randn(HEADS, NOPE + VALUE, LATENT) * LATENT**-0.5
    rounded = [item.to(dtype) for item in (queries(span), cache, kv_b)]

    def expanded(q, cache, kv_b):
        kv = torch.einsum("btl,hnl->bthn", cache[..., :LATENT], kv_b)
        return ops.attention(q, kv, cache[..., LATENT:], span, SCALE, selected)

    with ops.using(attention="reference"):
        wanted = run(expanded, rounded, torch.float64)
    got = run(lambda *args: ops.latent_attention(*args, span, SCALE, selected), rounded, dtype)
    assert worst(got, wanted) < TOLERANCE[dtype]
