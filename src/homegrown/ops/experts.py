"""Routed feed-forward experts over the tokens that chose them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from homegrown.ops.grouped import grouped_outer, grouped_product
from homegrown.ops.registry import Op
from homegrown.ops.saved import recomputable

# Shape suffixes: N tokens, K choices per token, E experts, H hidden, F expert width,
# R (token, expert) pairs and a spare one.


def _experts(x_NH: Tensor, index_NK: Tensor, gate_NK: Tensor, w_in_E2FH: Tensor, w_out_EHF: Tensor) -> Tensor:
    """Σ over a token's choices i < E of gate_i · FFN_i(x); choices ≥ E are other kinds of experts and add nothing.

    Args:
        x_NH: tokens.
        index_NK: int64 expert numbers.
        gate_NK: weights of the choices.
        w_in_E2FH: gate (0) and up (1) projections of every expert.
        w_out_EHF: down projections.

    Returns:
        [N, H] in x's dtype.
    """
    out = torch.zeros_like(x_NH)
    for expert in range(w_in_E2FH.shape[0]):
        token, choice = torch.where(index_NK == expert)
        x = x_NH[token]
        hidden = F.silu(x @ w_in_E2FH[expert, 0].T) * (x @ w_in_E2FH[expert, 1].T)
        weighted = gate_NK[token, choice].to(x.dtype)[:, None] * (hidden @ w_out_EHF[expert].T)
        out = out.index_add(0, token, weighted)
    return out


experts = Op("experts", _experts)


class _SortedExperts(torch.autograd.Function):
    """Pairs sorted by expert, one gather, two grouped products, one gather back; the backward is written by hand.

    The sum over a token's choices runs in choice order over a gathered [N, K, H] block, not by scattered adds, so
    the result does not depend on timing. Weight gradients come out of one grouped product each, without zero-filled
    temporaries.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_NH: Tensor,
        index_NK: Tensor,
        gate_NK: Tensor,
        w_in_E2FH: Tensor,
        w_out_EHF: Tensor,
        sizes: Sequence[int] | None,
    ) -> Tensor:
        choices, width = index_NK.shape[1], w_out_EHF.shape[2]
        order, ends, slot_NK = _sort_pairs(index_NK, w_in_E2FH.shape[0], sizes)
        token_R = order // choices
        x_RH = recomputable(torch.index_select, x_NH, 0, token_R)
        gate_R = gate_NK.reshape(-1).index_select(0, order).to(x_NH.dtype)
        gate_R[-1] = 0
        hidden_R2F = grouped_product(x_RH, w_in_E2FH.flatten(1, 2), ends, sizes)
        act_RF = F.silu(hidden_R2F[:, :width]).mul_(hidden_R2F[:, width:])
        out_RH = grouped_product(act_RF * gate_R[:, None], w_out_EHF, ends, sizes)
        ctx.save_for_backward(x_RH, hidden_R2F, gate_R, token_R, order, ends, slot_NK, w_in_E2FH, w_out_EHF)
        ctx.gate_dtype, ctx.sizes = gate_NK.dtype, sizes
        return _gather_sum(out_RH, slot_NK)

    @staticmethod
    def backward(ctx: Any, grad_NH: Tensor) -> tuple[Tensor, None, Tensor, Tensor, Tensor, None]:
        x_RH, hidden_R2F, gate_R, token_R, order, ends, slot_NK, w_in_E2FH, w_out_EHF = ctx.saved_tensors
        width, sizes = w_out_EHF.shape[2], ctx.sizes
        gate_RF, up_RF = hidden_R2F[:, :width], hidden_R2F[:, width:]
        grad_RH = grad_NH.index_select(0, token_R)
        silu_RF = F.silu(gate_RF)
        act_RF = silu_RF * up_RF
        grad_act_RF = grouped_product(grad_RH, w_out_EHF.transpose(1, 2), ends, sizes)
        grad_gate_R = (grad_act_RF * act_RF).sum(-1, dtype=torch.promote_types(grad_NH.dtype, torch.float32))
        grad_w_out = grouped_outer(grad_RH, act_RF.mul_(gate_R[:, None]), ends, sizes)
        grad_act_RF.mul_(gate_R[:, None])
        grad_hidden_R2F = torch.empty_like(hidden_R2F)
        torch.ops.aten.silu_backward.grad_input(grad_act_RF * up_RF, gate_RF, grad_input=grad_hidden_R2F[:, :width])
        torch.mul(grad_act_RF, silu_RF, out=grad_hidden_R2F[:, width:])
        grad_w_in = grouped_outer(grad_hidden_R2F, x_RH, ends, sizes).unflatten(1, (2, width))
        grad_x_RH = grouped_product(grad_hidden_R2F, w_in_E2FH.flatten(1, 2).transpose(1, 2), ends, sizes)
        grad_gate = torch.zeros(slot_NK.numel(), dtype=grad_gate_R.dtype, device=grad_NH.device)
        grad_gate.index_copy_(0, order[:-1], grad_gate_R[:-1])
        return (
            _gather_sum(grad_x_RH, slot_NK),
            None,
            grad_gate.view(slot_NK.shape).to(ctx.gate_dtype),
            grad_w_in,
            grad_w_out,
            None,
        )


@experts.register("sorted")
def sorted_experts(
    x_NH: Tensor,
    index_NK: Tensor,
    gate_NK: Tensor,
    w_in_E2FH: Tensor,
    w_out_EHF: Tensor,
    sizes: Sequence[int] | None = None,
) -> Tensor:
    """`experts`, by grouped products over the pairs sorted by expert.

    Args:
        sizes: pairs of each expert, where they are known (or supposed, in a dry run). Nothing is then read from the
            device, and tensors without numbers will do.
    """
    if x_NH.shape[0] == 0:  # there is no pair to spare
        return _experts(x_NH, index_NK, gate_NK, w_in_E2FH, w_out_EHF)
    return _SortedExperts.apply(x_NH, index_NK, gate_NK, w_in_E2FH, w_out_EHF, sizes)


def _sort_pairs(index_NK: Tensor, n_experts: int, sizes: Sequence[int] | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Order the (token, choice) pairs by expert, leaving out choices ≥ n_experts.

    A spare pair closes the list: pair 0 once more, in the last expert's group. With its gate set to zero its rows come
    out as zeros, and they are what the pairs left out read.

    Returns:
        order [R]: flat pair numbers n·K + k, by expert, then by token, then the spare pair;
        ends [E] int32: where each expert's pairs end;
        slot [N, K]: the row of each pair in that order, R − 1 for a pair left out.
    """
    flat = index_NK.reshape(-1)
    order = torch.argsort(flat, stable=True)
    if sizes is None:
        ends = torch.bincount(flat, minlength=n_experts)[:n_experts].cumsum(0)
        real = int(ends[-1])
    else:
        ends = torch.tensor(sizes, device=flat.device).cumsum(0)
        real = sum(sizes)
    slot = torch.empty_like(order)
    slot[order] = torch.arange(order.numel(), device=order.device).clamp_(max=real)
    ends[-1] += 1
    order = torch.cat((order[:real], order.new_zeros(1)))
    return order, ends.to(torch.int32), slot.view(index_NK.shape)


def _gather_sum(rows_RH: Tensor, slot_NK: Tensor) -> Tensor:
    """out[n] = Σ_k rows[slot[n, k]], summed in choice order."""
    return F.embedding_bag(slot_NK, rows_RH, mode="sum")
