"""Products of rows in groups with a matrix for each group: what experts are made of."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from homegrown.ops.registry import Op

# Shape suffixes: R rows, in E groups one after the other; A, B widths.


def _product(x_RA: Tensor, w_EBA: Tensor, ends_E: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
    """Rows of group e times w[e]ᵀ: [R, A] x [E, B, A] -> [R, B].

    Args:
        ends_E: int32, where each group's rows end; the last end is R.
        sizes: rows of each group, where they are known on the host; one row more is the last group's.
    """
    stops = [0, *_stops(ends_E, sizes)]
    return torch.cat([x_RA[start:stop] @ w.T for (start, stop), w in zip(pairwise(stops), w_EBA, strict=True)])


def _outer(a_RA: Tensor, b_RB: Tensor, ends_E: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
    """Per group, its rows of a, transposed, times its rows of b: [R, A], [R, B] -> [E, A, B].

    Args:
        ends_E, sizes: as in `grouped_product`.
    """
    stops = [0, *_stops(ends_E, sizes)]
    return torch.stack([a_RA[start:stop].T @ b_RB[start:stop] for start, stop in pairwise(stops)])


grouped_product = Op("grouped_product", _product)
grouped_outer = Op("grouped_outer", _outer)


@grouped_product.register("grouped")
def _product_at_once(x_RA: Tensor, w_EBA: Tensor, ends_E: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
    """PyTorch's grouped product where it takes these tensors, else one product a group; no gradients."""
    if sizes is None and _grouped_mm_takes(x_RA, w_EBA):
        return F.grouped_mm(x_RA, w_EBA.transpose(1, 2), offs=ends_E)
    out = x_RA.new_empty(x_RA.shape[0], w_EBA.shape[1])
    start = 0
    for group, end in enumerate(_stops(ends_E, sizes)):
        torch.mm(x_RA[start:end], w_EBA[group].T, out=out[start:end])
        start = end
    return out


@grouped_outer.register("in_place")
def _outer_in_place(a_RA: Tensor, b_RB: Tensor, ends_E: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
    """Each group's product goes straight to its place; no gradients."""
    out = a_RA.new_empty(len(ends_E), a_RA.shape[1], b_RB.shape[1])
    start = 0
    for group, end in enumerate(_stops(ends_E, sizes)):
        torch.mm(a_RA[start:end].T, b_RB[start:end], out=out[group])
        start = end
    return out


def _stops(ends_E: Tensor, sizes: Sequence[int] | None) -> list[int]:
    """`ends` on the host."""
    if sizes is None:
        return ends_E.tolist()
    return [*accumulate(sizes[:-1]), sum(sizes) + 1]


def _grouped_mm_takes(x: Tensor, w: Tensor) -> bool:
    # The grouped product wants 16-byte aligned rows and knows these dtypes only.
    aligned = all(size * x.element_size() % 16 == 0 for size in (x.shape[1], w.shape[1]))
    return aligned and x.shape[0] > 0 and x.dtype in (torch.float32, torch.bfloat16) and x.dtype == w.dtype
