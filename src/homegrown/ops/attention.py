"""Core attention of multi-head latent attention, keys and values expanded (training and full sequences)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from homegrown.ops.registry import Op
from homegrown.ops.saved import recomputing, remember
from homegrown.ops.span import Span

# Shape suffixes: B batch, S queries, T keys, h heads, D = nope + rope width of a head, N nope, R rope, V value width,
# C queries in a chunk, K selected keys.

CHUNK = 128
CHUNK_ELEMENTS = 1 << 25
"""Scores of one chunk never hold more numbers than this."""

KEPT_PROBS = 1 << 24
"""Up to this many probabilities are kept for the backward pass; more are recomputed there."""


def chunks(span: Span, per_query: int) -> list[tuple[int, int]]:
    """Query ranges small enough that range · per_query stays under `CHUNK_ELEMENTS`."""
    length = span.first.shape[1]
    size = max(1, min(CHUNK, CHUNK_ELEMENTS // max(1, per_query)))
    return [(start, min(start + size, length)) for start in range(0, length, size)]


def hidden_keys(span: Span, start: int, stop: int, low: int, high: int, selected_BSK: Tensor | None) -> Tensor:
    """True for the keys low..high that queries start..stop do not attend to: bool [B, C, high − low].

    Args:
        span: the interval each query sees.
        start, stop, low, high: ranges of queries and of keys.
        selected_BSK: int64 key positions an indexer chose for each query, −1 for none; `None` means all visible.
    """
    hidden = span.hidden(start, stop, low, high)
    if selected_BSK is None:
        return hidden
    chosen = selected_BSK[:, start:stop]
    width = high - low
    # Unused slots (−1) land in one extra column, dropped afterwards.
    kept = torch.zeros(*hidden.shape[:2], width + 1, dtype=torch.bool, device=hidden.device)
    kept.scatter_(2, torch.where(chosen < 0, width, chosen - low), True)
    return hidden | ~kept[..., :width]


def _attention(
    q_BShD: Tensor,
    kv_BThNV: Tensor,
    rope_key_BTR: Tensor,
    span: Span,
    scale: float,
    selected_BSK: Tensor | None = None,
) -> Tensor:
    """softmax(scale · (q_nope · k_nope + q_rope · k_rope)) v over the keys each query sees.

    Args:
        q_BShD: queries, the rope lanes (last R) rotated already.
        kv_BThNV: per head, the nope key (first D − R) and the value.
        rope_key_BTR: the rotated key that all heads share.
        span: the interval of keys each query sees.
        scale: softmax scale τ.
        selected_BSK: keys chosen by an indexer (int64 positions, −1 unused), or `None` for all in the interval.

    Returns:
        [B, S, h, V].
    """
    nope = q_BShD.shape[-1] - rope_key_BTR.shape[-1]
    heads = q_BShD.shape[2]
    key = torch.cat((kv_BThNV[..., :nope], rope_key_BTR[:, :, None].expand(-1, -1, heads, -1)), dim=-1)
    scores = torch.einsum("bshd,bthd->bhst", q_BShD, key) * scale
    hidden = hidden_keys(span, 0, q_BShD.shape[1], 0, key.shape[1], selected_BSK)
    probs = scores.masked_fill(hidden[:, None], -torch.inf).softmax(-1)
    return torch.einsum("bhst,bthv->bshv", probs, kv_BThNV[..., nope:])


attention = Op("attention", _attention)


class _ChunkedAttention(torch.autograd.Function):
    """Blocks of queries, each against the keys it reaches only.

    Memory grows with S, not S²: the backward pass recomputes the probabilities, unless they are few (`KEPT_PROBS`) and
    there is room for what can be made again (`saved`).
    Products run on [B·h, ·, ·] batches laid out once.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q_BShD: Tensor,
        kv_BThNV: Tensor,
        rope_key_BTR: Tensor,
        span: Span,
        scale: float,
        selected: Tensor | None,
        needs_grad: bool,
    ) -> Tensor:
        nope = q_BShD.shape[3] - rope_key_BTR.shape[2]
        q, (key, value) = _by_head(q_BShD), lay_out_keys(kv_BThNV, rope_key_BTR, nope)
        remember((key, value), lay_out_keys, kv_BThNV, rope_key_BTR, nope)
        batch, length, heads, _ = q_BShD.shape
        ranges = chunks(span, batch * heads * key.shape[1])
        keep = needs_grad and not recomputing() and batch * heads * _visited(span, ranges) <= KEPT_PROBS
        out = value.new_empty(batch * heads, length, value.shape[2])
        kept = []
        for start, stop in ranges:
            low, high = span.bounds(start, stop)
            probs = _probs(q, key, span, scale, selected, start, stop)
            out[:, start:stop] = torch.bmm(probs, value[:, low:high])
            if keep:
                kept.append(probs)
        # Values first: those of one row are a view of what the keys are laid out from, and if both are to be made
        # again (`saved`), that is then made once.
        ctx.save_for_backward(q, value, key, selected, *kept)
        ctx.span, ctx.scale, ctx.ranges, ctx.rope = span, scale, ranges, rope_key_BTR.shape[2]
        return out.view(batch, heads, length, -1).transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, grad_BShV: Tensor) -> tuple[Tensor | None, ...]:
        q, value, key, selected, *kept = ctx.saved_tensors
        span, scale = ctx.span, ctx.scale
        grad = grad_BShV.transpose(1, 2).reshape(q.shape[0], q.shape[1], -1)
        wide = torch.promote_types(q.dtype, torch.float32)
        grad_q = torch.empty_like(q)
        grad_key, grad_value = torch.zeros_like(key, dtype=wide), torch.zeros_like(value, dtype=wide)
        for number, (start, stop) in enumerate(ctx.ranges):
            low, high = span.bounds(start, stop)
            probs = kept[number] if kept else _probs(q, key, span, scale, selected, start, stop)
            grad_out = grad[:, start:stop]
            grad_value[:, low:high] += torch.bmm(probs.transpose(1, 2), grad_out)
            grad_probs = torch.bmm(grad_out, value[:, low:high].transpose(1, 2))
            grad_scores = torch.ops.aten._softmax_backward_data(grad_probs, probs, -1, probs.dtype)
            grad_q[:, start:stop] = torch.bmm(grad_scores, key[:, low:high])
            grad_key[:, low:high] += torch.bmm(grad_scores.transpose(1, 2), q[:, start:stop])
        grad_q *= scale
        grad_key *= scale
        batch, length, heads, _ = grad_BShV.shape
        nope = key.shape[2] - ctx.rope
        grad_key = grad_key.view(batch, heads, -1, key.shape[2])
        grad_kv = key.new_empty(batch, key.shape[1], heads, nope + value.shape[2])
        grad_kv[..., :nope] = grad_key[..., :nope].transpose(1, 2)
        grad_kv[..., nope:] = grad_value.view(batch, heads, -1, value.shape[2]).transpose(1, 2)
        grad_rope_key = grad_key[..., nope:].sum(1).to(key.dtype)
        return grad_q.view(batch, heads, length, -1).transpose(1, 2), grad_kv, grad_rope_key, None, None, None, None


@attention.register("chunked")
def _attention_chunked(
    q_BShD: Tensor,
    kv_BThNV: Tensor,
    rope_key_BTR: Tensor,
    span: Span,
    scale: float,
    selected_BSK: Tensor | None = None,
) -> Tensor:
    # Inside the function gradient mode is always off, so whether gradients are wanted is settled here.
    needs_grad = torch.is_grad_enabled()
    return _ChunkedAttention.apply(q_BShD, kv_BThNV, rope_key_BTR, span, scale, selected_BSK, needs_grad)


def _visited(span: Span, ranges: list[tuple[int, int]]) -> int:
    """(query, key) pairs of one head that the chunks compute."""
    bounds = (span.bounds(start, stop) for start, stop in ranges)
    return sum((stop - start) * (high - low) for (start, stop), (low, high) in zip(ranges, bounds, strict=True))


def mean_probs(
    q: Tensor, key: Tensor, span: Span, scale: float, selected_BSK: Tensor | None, start: int, stop: int
) -> Tensor:
    """Attention probabilities of queries start..stop averaged over heads: [B, C, high − low].

    Args:
        q, key: [B·h, S, D] and [B·h, T, D], as `lay_out` gives them.
        span, scale, selected_BSK, start, stop: as in `attention`.
    """
    probs = _probs(q, key, span, scale, selected_BSK, start, stop)
    wide = torch.promote_types(q.dtype, torch.float32)
    return probs.view(span.first.shape[0], -1, *probs.shape[1:]).mean(1, dtype=wide)


def lay_out(q_BShD: Tensor, kv_BThNV: Tensor, rope_key_BTR: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values as contiguous [B·h, ·, ·] batches."""
    return _by_head(q_BShD), *lay_out_keys(kv_BThNV, rope_key_BTR, q_BShD.shape[3] - rope_key_BTR.shape[2])


def lay_out_keys(kv_BThNV: Tensor, rope_key_BTR: Tensor, nope: int) -> tuple[Tensor, Tensor]:
    """Keys, [B·h, T, nope + R], and values, [B·h, T, V]."""
    batch, keys, heads, _ = kv_BThNV.shape
    key = kv_BThNV.new_empty(batch, heads, keys, nope + rope_key_BTR.shape[2])
    key[..., :nope] = kv_BThNV[..., :nope].transpose(1, 2)
    key[..., nope:] = rope_key_BTR[:, None]
    return key.flatten(0, 1), _by_head(kv_BThNV[..., nope:])


def _by_head(x_BShD: Tensor) -> Tensor:
    batch, length, heads, width = x_BShD.shape
    return x_BShD.transpose(1, 2).reshape(batch * heads, length, width)


def _probs(q: Tensor, key: Tensor, span: Span, scale: float, selected: Tensor | None, start: int, stop: int) -> Tensor:
    """softmax over the keys that queries start..stop reach: [B·h, C, high − low]."""
    low, high = span.bounds(start, stop)
    query = q[:, start:stop]
    scores = torch.baddbmm(query.new_empty(()), query, key[:, low:high].transpose(1, 2), beta=0, alpha=scale)
    _hide(scores.view(span.first.shape[0], -1, stop - start, high - low), span, selected, start, low)
    return scores.softmax(-1)


def _hide(scores_BhCT: Tensor, span: Span, selected: Tensor | None, start: int, low: int) -> None:
    """Set to −∞ what queries start.. do not see of the keys low..; keys that all of them see are not touched."""
    stop, high = start + scores_BhCT.shape[2], low + scores_BhCT.shape[3]
    whole_low, whole_high = span.common(start, stop)
    if selected is not None or whole_low >= whole_high:
        whole_low = whole_high = high
    for left, right in ((low, whole_low), (whole_high, high)):
        if left < right:
            hidden = hidden_keys(span, start, stop, left, right, selected)
            scores_BhCT[..., left - low : right - low].masked_fill_(hidden[:, None], -torch.inf)
