"""Word rows spread over a tensor-parallel group: the embedding, and the head with its cross-entropy."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from homegrown.model.layers import Words
from homegrown.ops.cross_entropy import CHUNK_BYTES
from homegrown.parallel.collectives import gather, reduce_scatter, sum_scatter
from homegrown.parallel.groups import Group
from homegrown.parallel.tree import tree_sum

# Shape suffixes: B batch, s own positions, S the group's positions, N own tokens, C tokens of a chunk, V word rows that
# are here, H hidden.


class SpreadWords(Words):
    """The rows of the word table that are here; a token's row comes from whoever has it.

    Args:
        weight: [V, H], the group's members' in order.
        group: the members.
    """

    def __init__(self, weight: nn.Parameter, group: Group) -> None:
        with torch.device("meta"):
            super().__init__(*weight.shape)
        self.weight, self.group = weight, group

    def forward(self, tokens: Tensor) -> Tensor:
        """int64 [B, s] -> [B, s, H]."""
        tokens_BS = torch.cat(gather(tokens, self.group).unbind(0), dim=1)
        row, here = local_rows(tokens_BS, self.weight, self.group)
        rows = F.embedding(row, self.weight).masked_fill(~here[..., None], 0.0)
        return reduce_scatter(rows, self.group, 1)


def local_rows(tokens: Tensor, weight_VH: Tensor, group: Group) -> tuple[Tensor, Tensor]:
    """Where each token's row would be among the rows here (some row, for those that are elsewhere), and whether it is
    here."""
    count = weight_VH.shape[0]
    row = tokens - group.rank * count
    return row.clamp(0, count - 1), (row >= 0) & (row < count)


def spread_cross_entropy(hidden_NH: Tensor, weight_VH: Tensor, target_N: Tensor, group: Group) -> Tensor:
    """Σ over this rank's tokens of the cross-entropy against the target, over the words of the whole group.

    Every member scores the tokens of all members against its own rows, chunk by chunk, so that the logits of all tokens
    never exist at once; maxima, sums of exponentials and the targets' logits are combined in a fixed order.

    Args:
        hidden_NH: this rank's final hidden states, as many as every member has.
        weight_VH: the rows of the unembedding that are here.
        target_N: int64 token numbers; −1 leaves a token out.
        group: the members, whose rows are in their order.

    Returns:
        scalar, float32 or wider: the members' add up to the whole. Its gradients are those of that sum, so all members
        must scale it alike before they go backward.
    """
    # Inside the function gradient mode is always off, so whether gradients are wanted is settled here.
    return _SpreadCrossEntropy.apply(hidden_NH, weight_VH, target_N, group, torch.is_grad_enabled())


class _SpreadCrossEntropy(torch.autograd.Function):
    """Gradients are taken in the forward pass, as in the op of the whole vocabulary."""

    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, target_N: Tensor, group: Group, needs_grad: bool
    ) -> Tensor:
        wide = torch.promote_types(hidden_NH.dtype, torch.float32)
        hidden, target = gather(hidden_NH, group).flatten(0, 1), gather(target_N, group).flatten()
        losses = torch.empty(target.shape, dtype=wide, device=target.device)
        grad_hidden = torch.empty_like(hidden) if needs_grad else None
        grad_weight = torch.zeros(weight_VH.shape, dtype=wide, device=weight_VH.device) if needs_grad else None
        size = max(1, CHUNK_BYTES // (weight_VH.shape[0] * 4))
        for start in range(0, len(target), size):
            chunk = slice(start, start + size)
            counts = (target[chunk] >= 0)[:, None]
            row, here = local_rows(target[chunk, None], weight_VH, group)
            logits = F.linear(hidden[chunk], weight_VH).to(wide)
            picked = logits.gather(1, row).masked_fill(~here, 0.0)
            probs, loss = _normalised(logits, picked, group)
            losses[chunk] = loss.masked_fill(~counts[:, 0], 0.0)
            if grad_hidden is None or grad_weight is None:
                continue
            probs.scatter_add_(1, row, -here.to(wide))
            grad, counted = probs.to(hidden.dtype), counts.to(hidden.dtype)
            torch.mm(grad, weight_VH, out=grad_hidden[chunk])
            grad_hidden[chunk] *= counted
            grad_weight += grad.T @ (hidden[chunk] * counted)
        own = None if grad_hidden is None else sum_scatter(grad_hidden.view(group.size, *hidden_NH.shape), group)
        ctx.save_for_backward(own, grad_weight)
        ctx.weight_dtype = weight_VH.dtype
        return losses.view(group.size, -1)[group.rank].sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grad.to(grad_hidden.dtype), (grad_weight * grad).to(ctx.weight_dtype), None, None, None


def _normalised(logits_CV: Tensor, picked_C1: Tensor, group: Group) -> tuple[Tensor, Tensor]:
    """Probabilities of the words here, written over the logits, and each token's loss [C], with the words of all."""
    top = logits_CV.amax(-1, keepdim=True)
    exponentials = logits_CV.sub_(top).exp_()
    members = gather(torch.cat((top, exponentials.sum(-1, keepdim=True), picked_C1), dim=1), group)
    tops, sums, picks = members.unbind(-1)
    highest = tops.amax(0)
    lowered = (tops - highest).exp()
    total = tree_sum((sums * lowered).unbind(0))
    loss = highest + total.log() - tree_sum(picks.unbind(0))
    return exponentials.mul_((lowered[group.rank] / total)[:, None]), loss
