"""Operators on tensors without values, where PyTorch does not say what they give or cost."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry


def _counted_values(x: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    """`bincount` of numbers below `minlength`."""
    return x.new_empty((minlength,))


def _grouped_product(a: Tensor, b: Tensor, offs: Tensor, *rest: Any, **more: Any) -> Tensor:
    """Rows of a, each times its group's matrix of b; or, of two matrices, a product for each group of columns."""
    return a.new_empty((a.shape[0], b.shape[2]) if b.ndim == 3 else (offs.shape[0], a.shape[0], b.shape[1]))


def _grouped_flops(a: Tensor, b: Tensor, *rest: Any, out_val: Any, **more: Any) -> int:
    """Every row meets its group's matrix, every column its group's rows."""
    return 2 * prod(a.shape) * (b.shape[2] if b.ndim == 3 else b.shape[1])


def _vector_flops(a: Tensor, b: Tensor, *rest: Any, out_val: Any, **more: Any) -> int:
    return 2 * prod(a.shape)


def run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What an operator gives."""
    packet = func._overloadpacket
    if packet is torch.ops.aten.copy_ and args[0].is_meta != args[1].is_meta:
        return args[0]  # between host and device: there is nothing to copy
    stand_in = STAND_INS.get(packet)
    return func(*args, **kwargs) if stand_in is None or not args[0].is_meta else stand_in(*args, **kwargs)


STAND_INS: dict[Any, Callable[..., Tensor]] = {
    torch.ops.aten.bincount: _counted_values,
    torch.ops.aten._grouped_mm: _grouped_product,
}
"""What operators give whose size depends on values, or whose rules for meta tensors are those of one kind of device."""

FLOPS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    torch.ops.aten._grouped_mm: _grouped_flops,
    torch.ops.aten.mv: _vector_flops,
}
"""Floating-point operations of products: PyTorch's own table, and what it leaves out."""
