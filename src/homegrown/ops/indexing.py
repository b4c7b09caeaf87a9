"""LongCat Sparse Attention: scoring keys, choosing them, and the loss that teaches the scores (arXiv 2608.01662)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from homegrown.config import SparseConfig
from homegrown.ops.attention import chunks, hidden_keys, lay_out, mean_probs
from homegrown.ops.registry import Op
from homegrown.ops.span import Span

# Shape suffixes: B batch, S queries, C queries of a chunk, T keys, J index heads, D index head width, K budget.


def _index_scores(q_BCJD: Tensor, key_BTD: Tensor, weight_BCJ: Tensor) -> Tensor:
    """I[t, s] = Σ_j w[t, j] · ReLU(q[t, j] · k[s]) (arXiv 2608.01662 eq. 1), in float32 or wider: [B, C, T]."""
    batch, count, heads, width = q_BCJD.shape
    dots = torch.bmm(q_BCJD.reshape(batch, count * heads, width), key_BTD.transpose(1, 2)).relu()
    wide = torch.promote_types(dots.dtype, torch.float32)
    dots = dots.view(batch, count, heads, -1).to(wide)
    return torch.einsum("bcjt,bcj->bct", dots, weight_BCJ.to(wide))


index_scores = Op("index_scores", _index_scores)


def _select(
    q_BSJD: Tensor, key_BTD: Tensor, weight_BSJ: Tensor, span: Span, config: SparseConfig, paged: bool = False
) -> Tensor:
    """The keys each query attends to: sinks, window, and the best-scored of the rest (eq. 5 and 6).

    Args:
        q_BSJD, key_BTD, weight_BSJ: index queries, keys and head weights.
        span: the interval of keys each query sees; sinks and window are counted from its ends.
        config: budget (sinks and window included), sink and window sizes, page sizes.
        paged: score pages first and tokens only inside the best pages (hierarchical indexing, section 3.3).

    Returns:
        int64 [B, S, K] key positions in ascending order, −1 where a query sees fewer than K keys. Ties go to the
        lowest position, so the choice is a function of the scores alone.
    """
    scorer = _paged_scores if paged else _all_scores
    rows = []
    with torch.no_grad():
        for start, stop in chunks(span, q_BSJD.shape[0] * q_BSJD.shape[2] * key_BTD.shape[1]):
            rows.append(_select_chunk(scorer, q_BSJD, key_BTD, weight_BSJ, span, config, start, stop))
    return torch.cat(rows, dim=1)


select = Op("select", _select)

Scorer = Callable[[Tensor, Tensor, Tensor, Span, SparseConfig, int, int], Tensor]


def _select_chunk(
    scorer: Scorer, q: Tensor, key: Tensor, weight: Tensor, span: Span, config: SparseConfig, start: int, stop: int
) -> Tensor:
    low, high = span.bounds(start, stop)
    scores = scorer(q[:, start:stop], key, weight[:, start:stop], span, config, start, stop)
    position = torch.arange(low, high, device=key.device)
    first, last = span.first[:, start:stop, None], span.last[:, start:stop, None]
    fixed = (position < first + config.init_tokens) | (position > last - config.local_tokens)
    hidden = (position < first) | (position > last)
    scores = scores.masked_fill(fixed, torch.inf).masked_fill(hidden, -torch.inf)
    budget = min(config.topk, high - low)
    chosen = _ranked(scores, position).topk(budget, dim=-1).indices
    chosen = torch.where(hidden.gather(2, chosen), -1, chosen + low)
    chosen = torch.where(chosen < 0, high, chosen).sort(-1).values
    chosen = torch.where(chosen == high, -1, chosen)
    return torch.nn.functional.pad(chosen, (0, config.topk - budget), value=-1)


def _ranked(scores: Tensor, position: Tensor) -> Tensor:
    """Scores as int64 keys that order like (score, −position): no two are equal, so top-k has one answer."""
    # Adding zero turns −0 into +0; the bits of a float order like an integer once negatives are flipped.
    bits = (scores.float() + 0.0).view(torch.int32)
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(torch.int64)
    return (ordered << 32) - position


def _all_scores(
    q: Tensor, key: Tensor, weight: Tensor, span: Span, config: SparseConfig, start: int, stop: int
) -> Tensor:
    low, high = span.bounds(start, stop)
    return index_scores(q, key[:, low:high], weight)


def _paged_scores(
    q: Tensor, key: Tensor, weight: Tensor, span: Span, config: SparseConfig, start: int, stop: int
) -> Tensor:
    """Token scores inside each query's best pages, −inf elsewhere; pages count from the row's first key.

    A page's score is Σ_j w_j Σ_n ReLU(q_j · k̄_n) over the means k̄_n of its sub-blocks. Pages that a query sees in
    part are left to the window, which always covers them.
    """
    low, high = span.bounds(start, stop)
    page, block = config.page_size, config.page_block
    whole = (high - low) // page * page
    scores = torch.full((*q.shape[:2], high - low), -torch.inf, device=q.device)
    if not whole:
        return scores
    means = key[:, low : low + whole].unflatten(1, (-1, block)).float().mean(2).to(key.dtype)
    by_page = index_scores(q, means, weight).unflatten(2, (-1, page // block)).sum(-1)
    end = torch.arange(1, whole // page + 1, device=q.device) * page + low - 1
    seen = (end <= span.last[:, start:stop, None]) & (end - page + 1 >= span.first[:, start:stop, None])
    by_page = by_page.masked_fill(~seen, -torch.inf)
    best = _ranked(by_page, end).topk(min(config.page_topk, whole // page), dim=-1).indices
    tokens = (best[..., None] * page + torch.arange(page, device=q.device)).flatten(2)
    for query in range(q.shape[1]):
        index = tokens[:, query]
        keys = key[:, low:high].gather(1, index[..., None].expand(-1, -1, key.shape[2]))
        inside = index_scores(q[:, query : query + 1], keys, weight[:, query : query + 1])[:, 0]
        scores[:, query] = scores[:, query].scatter(1, index, inside.float())
    return scores


class Targets(Protocol):
    """What teaches the indexer, chunk by chunk."""

    def __call__(self, start: int, stop: int) -> Tensor:
        """p of the queries start..stop over the keys `span.bounds(start, stop)`: [B, stop − start, high − low]."""


class _IndexerLoss(torch.autograd.Function):
    """Loss and gradients in one forward pass, chunk by chunk (the targets need no gradient).

    A chunk's graph is used up at once. Hooks of the graph around it, which may free and recompute what is saved, must
    not see it: every chunk would recompute the layer that this loss is part of.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        key: Tensor,
        weight: Tensor,
        targets: Targets,
        span: Span,
        selected: Tensor | None,
        counted: Tensor | None,
    ) -> Tensor:
        wide = torch.promote_types(q.dtype, torch.float32)
        leaves = [item.detach().requires_grad_() for item in (q, key, weight)]
        grads = [torch.zeros_like(item, dtype=wide) for item in leaves]
        total = torch.zeros((), dtype=wide, device=q.device)
        for start, stop in chunks(span, q.shape[0] * q.shape[2] * key.shape[1]):
            low, high = span.bounds(start, stop)
            target = targets(start, stop)
            if counted is not None:
                target = target * counted[:, start:stop, None]
            hidden = hidden_keys(span, start, stop, low, high, selected)
            with torch.enable_grad(), saved_tensors_hooks(Tensor.detach, _unchanged):
                scores = index_scores(leaves[0][:, start:stop], leaves[1][:, low:high], leaves[2][:, start:stop])
                log_probs = scores.masked_fill(hidden, -torch.inf).log_softmax(-1).masked_fill(hidden, 0.0)
                loss = torch.special.xlogy(target, target).sum() - (target * log_probs).sum()
            total += loss.detach()
            for grad, part in zip(grads, torch.autograd.grad(loss, leaves), strict=True):
                grad += part
        ctx.save_for_backward(*(grad.to(item.dtype) for grad, item in zip(grads, leaves, strict=True)))
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, key, weight = (grad.to(saved.dtype) * saved for saved in ctx.saved_tensors)
        return q, key, weight, None, None, None, None


def _unchanged(tensor: Tensor) -> Tensor:
    return tensor


class CoreTargets(NamedTuple):
    """`Targets` of core attention: queries and keys laid out, and what else its probabilities depend on."""

    q: Tensor
    key: Tensor
    span: Span
    scale: float
    selected_BSK: Tensor | None

    def __call__(self, start: int, stop: int) -> Tensor:
        """[B, stop − start, high − low] over the keys `span.bounds(start, stop)`."""
        return mean_probs(self.q, self.key, self.span, self.scale, self.selected_BSK, start, stop)


def core_targets(
    core: tuple[Tensor, Tensor, Tensor], span: Span, scale: float, selected_BSK: Tensor | None
) -> CoreTargets:
    """What teaches the indexer: core attention's probabilities, averaged over heads.

    Args:
        core: queries [B, S, h, D], expanded keys and values [B, T, h, N + V] and shared rope keys [B, T, R] of core
            attention; no gradient flows to these.
        span: the interval of keys each query sees.
        scale: softmax scale of core attention.
        selected_BSK: the keys core attention was restricted to, or `None`.

    Returns:
        (start, stop) -> [B, stop − start, high − low] over the keys `span.bounds(start, stop)`.
    """
    q, key, _ = lay_out(*(item.detach() for item in core))
    return CoreTargets(q, key, span, scale, selected_BSK)


def _indexer_loss(
    index: tuple[Tensor, Tensor, Tensor],
    targets: Targets,
    span: Span,
    selected_BSK: Tensor | None,
    counted_BS: Tensor | None = None,
) -> Tensor:
    """Sum over queries of KL(p_t ‖ softmax(I_t)) over the keys core attention saw (arXiv 2608.01662 section 3).

    p_t is the core attention's probability summed over heads and renormalised. With a selection both sides are
    restricted to it (sparse stage), without one they run over all visible keys (dense warm-up).

    Args:
        index: index queries [B, S, J, D], keys [B, T, D] and head weights [B, S, J]; gradients flow to these.
        targets: p, as `core_targets` gives it.
        span: the interval of keys each query sees.
        selected_BSK: the keys core attention was restricted to, or `None`.
        counted_BS: queries that count, bool; the others add nothing.
    """
    return _IndexerLoss.apply(*index, targets, span, selected_BSK, counted_BS)


indexer_loss = Op("indexer_loss", _indexer_loss)
