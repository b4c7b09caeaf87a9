"""Rotary position embedding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from homegrown.ops.registry import Op


def _rotary(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = True) -> Tensor:
    """Rotate pairs of lanes of x by the angles whose cosine and sine are given.

    Args:
        x: [..., R], R even.
        cos, sin: broadcastable to [..., R / 2], float32 or wider.
        interleaved: lanes (2i, 2i+1) form pair i; otherwise lanes (i, i + R/2).

    Returns:
        [..., R] in x's dtype; the arithmetic runs in the tables' dtype.
    """
    if interleaved:
        even, odd = x[..., 0::2].to(cos.dtype), x[..., 1::2].to(cos.dtype)
        return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).to(x.dtype)
    low, high = (half.to(cos.dtype) for half in x.chunk(2, dim=-1))
    return torch.cat((low * cos - high * sin, low * sin + high * cos), dim=-1).to(x.dtype)


rotary = Op("rotary", _rotary)


class _Rotate(torch.autograd.Function):
    """Interleaved rotation; its backward is the rotation by the opposite angle, so nothing but the tables is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotate_pairs(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotate_pairs(grad, cos, -sin), None, None


def _rotate_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    even, odd = x[..., 0::2].to(cos.dtype), x[..., 1::2].to(cos.dtype)
    out[..., 0::2] = (even * cos).sub_(odd * sin)
    out[..., 1::2] = (even * sin).add_(odd * cos)
    return out


@rotary.register("fused_backward")
def _rotary_fused(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = True) -> Tensor:
    if not interleaved:
        return _rotary(x, cos, sin, interleaved)
    return _Rotate.apply(x, cos, sin)
