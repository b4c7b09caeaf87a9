"""The gate of a SwiGLU feed-forward network."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from homegrown.ops.registry import Op


def _swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) ⊙ up (arXiv 2002.05202), elementwise over equal shapes."""
    return F.silu(gate) * up


swiglu = Op("swiglu", _swiglu, cheap=True)


class _SwiGlu(torch.autograd.Function):
    """Keeps only its two inputs; autograd would keep silu(gate) as well."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad * up, gate), F.silu(gate).mul_(grad)


@swiglu.register("fused_backward")
def _swiglu_fused(gate: Tensor, up: Tensor) -> Tensor:
    return _SwiGlu.apply(gate, up)
