"""Routed experts whose weights are in eight bits. Only the experts that were chosen are read."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from homegrown.ops.experts import experts
from homegrown.ops.int8 import Int8, dequantise, int8_linear
from homegrown.ops.registry import Op

# Shape suffixes: N tokens, K choices per token, E experts, H hidden, F expert width, R (token, expert) pairs.


def _int8_experts(x_NH: Tensor, index_NK: Tensor, gate_NK: Tensor, w_in_E2FH: Int8, w_out_EHF: Int8) -> Tensor:
    """Σ over a token's choices i < E of gate_i · FFN_i(x), as `experts`, with weights in eight bits.

    Args:
        x_NH: tokens.
        index_NK: int64 expert numbers; those ≥ E are other kinds of experts and add nothing.
        gate_NK: weights of the choices.
        w_in_E2FH: gate (0) and up (1) projections of every expert.
        w_out_EHF: down projections.

    Returns:
        [N, H] in x's dtype.
    """
    wide = (dequantise(weight).to(x_NH.dtype) for weight in (w_in_E2FH, w_out_EHF))
    return experts.implementations["reference"](x_NH, index_NK, gate_NK, *wide)


int8_experts = Op("int8_experts", _int8_experts)


@int8_experts.register("sorted")
def _sorted(x_NH: Tensor, index_NK: Tensor, gate_NK: Tensor, w_in_E2FH: Int8, w_out_EHF: Int8) -> Tensor:
    """Pairs sorted by expert, two products for each expert that has any; each token's sum runs in choice order."""
    if x_NH.shape[0] == 0:
        return x_NH.clone()
    choices, (n_experts, hidden, width) = index_NK.shape[1], w_out_EHF.values.shape
    flat = index_NK.reshape(-1)
    order = torch.argsort(flat, stable=True)
    sizes = torch.bincount(flat, minlength=n_experts)[:n_experts].tolist()
    real = sum(sizes)
    pair_R = order[:real]
    gate_R = gate_NK.reshape(-1)[pair_R].to(x_NH.dtype)
    w_in = Int8(w_in_E2FH.values.flatten(1, 2), w_in_E2FH.scale.flatten(1, 2))
    hidden_R2F = _grouped(x_NH[pair_R // choices], w_in, sizes)
    act_RF = F.silu(hidden_R2F[:, :width]).mul_(hidden_R2F[:, width:]).mul_(gate_R[:, None])
    # Choices of other kinds read a row of zeros behind the others.
    out_RH = torch.cat((_grouped(act_RF, w_out_EHF, sizes), x_NH.new_zeros(1, hidden)))
    slot = torch.empty_like(order)
    slot[order] = torch.arange(order.numel(), device=order.device).clamp_(max=real)
    return F.embedding_bag(slot.view(index_NK.shape), out_RH, mode="sum")


def _grouped(x_RA: Tensor, weight_EBA: Int8, sizes: list[int]) -> Tensor:
    """The first sizes[0] rows times the first matrix, the next ones times the second, ...: [R, A] -> [R, B]."""
    products, start = [], 0
    for number, size in enumerate(sizes):
        if size:
            one = Int8(weight_EBA.values[number], weight_EBA.scale[number])
            products.append(int8_linear(x_RA[start : start + size], *one))
            start += size
    return torch.cat(products) if products else x_RA.new_zeros(0, weight_EBA.values.shape[1])
