"""Root-mean-square normalisation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from homegrown.ops.registry import Op


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMS(x; w, ε) = w · x / sqrt(mean(x²) + ε) over the last dimension (arXiv 1910.07467).

    Statistics are taken in float32 at least; the normalised value is cast back to x's dtype before the weight.

    Args:
        x: [..., H].
        weight: [H].
        eps: ε, added to the mean square.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    scale = (wide.square().mean(-1, keepdim=True) + eps).rsqrt()
    return weight * (wide * scale).to(x.dtype)


rms_norm = Op("rms_norm", _rms_norm, cheap=True)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide)
        scale = (norm.square() / x.shape[-1] + eps).rsqrt()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).to(x.dtype).mul_(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        wide, wide_weight = grad.to(scale.dtype), weight.to(scale.dtype)
        normed = x * scale
        product = (wide * normed).flatten(0, -2)
        mean = torch.mv(product, wide_weight).view(scale.shape) / x.shape[-1]
        grad_x = normed.mul_(-mean).addcmul_(wide, wide_weight).mul_(scale)
        return grad_x.to(x.dtype), product.sum(0).to(weight.dtype), None


@rms_norm.register("fused_backward")
def _rms_norm_fused(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    if x.dtype != weight.dtype:
        return _rms_norm(x, weight, eps)
    return _RmsNorm.apply(x, weight, eps)
