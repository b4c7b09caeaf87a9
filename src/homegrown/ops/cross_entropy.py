"""Head and cross-entropy in one op, chunked so that the logits of all tokens never exist at once."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from homegrown.ops.registry import Op

CHUNK_BYTES = 16 << 20
"""Size of one chunk of float32 logits."""


def _linear_cross_entropy(hidden_NH: Tensor, weight_VH: Tensor, target_N: Tensor) -> Tensor:
    """Σ over tokens of the cross-entropy of softmax(W h) against the target, in nats.

    Args:
        hidden_NH: final hidden states.
        weight_VH: unembedding.
        target_N: int64 token numbers; −1 leaves a token out.

    Returns:
        scalar, float32 or wider.
    """
    logits = F.linear(hidden_NH, weight_VH)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(wide, target_N, ignore_index=-1, reduction="sum")


linear_cross_entropy = Op("linear_cross_entropy", _linear_cross_entropy)


class _LinearCrossEntropy(torch.autograd.Function):
    """Gradients are taken in the forward pass, chunk by chunk: three matrix products and no stored logits."""

    @staticmethod
    def forward(ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, target_N: Tensor, needs_grad: bool) -> Tensor:
        wide = torch.promote_types(hidden_NH.dtype, torch.float32)
        loss = torch.zeros((), dtype=wide, device=hidden_NH.device)
        grad_hidden = torch.empty_like(hidden_NH) if needs_grad else None
        grad_weight = torch.zeros(weight_VH.shape, dtype=wide, device=weight_VH.device) if needs_grad else None
        rows = max(1, CHUNK_BYTES // (weight_VH.shape[0] * 4))
        for start in range(0, hidden_NH.shape[0], rows):
            hidden, target = hidden_NH[start : start + rows], target_N[start : start + rows]
            counts = (target >= 0).to(wide)[:, None]
            logits = F.linear(hidden, weight_VH).to(wide)
            top, picked = logits.amax(-1, keepdim=True), logits.gather(1, target.clamp(min=0)[:, None])
            probs = logits.softmax(-1)
            # The likeliest token has probability exp(top − logsumexp): one pass less than a logsumexp of its own.
            loss += ((top - probs.amax(-1, keepdim=True).log() - picked) * counts).sum()
            if grad_hidden is None or grad_weight is None:
                continue
            probs.scatter_add_(1, target.clamp(min=0)[:, None], -torch.ones_like(counts))
            grad, counts = probs.to(hidden.dtype), counts.to(hidden.dtype)
            torch.mm(grad, weight_VH, out=grad_hidden[start : start + rows])
            grad_hidden[start : start + rows] *= counts
            grad_weight += grad.T @ (hidden * counts)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.weight_dtype = weight_VH.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grad.to(grad_hidden.dtype), (grad_weight * grad).to(ctx.weight_dtype), None, None


@linear_cross_entropy.register("chunked")
def _linear_cross_entropy_chunked(hidden_NH: Tensor, weight_VH: Tensor, target_N: Tensor) -> Tensor:
    # Inside the function gradient mode is always off, so whether gradients are wanted is settled here.
    return _LinearCrossEntropy.apply(hidden_NH, weight_VH, target_N, torch.is_grad_enabled())
