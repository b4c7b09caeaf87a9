"""Sums of sparse rows over many addends, in the order of a binary tree."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Addends(NamedTuple):
    """Rows of several sparse addends, in any order; an addend has each row at most once.

    Attributes:
        ids: int64 [U], which row.
        addend: int64 [U], number of the addend.
        values: [U, W].
    """

    ids: Tensor
    addend: Tensor
    values: Tensor


def tree_rows(addends: Addends, count: int) -> tuple[Tensor, Tensor]:
    """Σ over addends 0 .. count − 1, row by row: the bits of `tree.tree_sum` over them, all rows at once.

    A row that an addend lacks counts as zero there. Where the device runs ahead of the host, every level of the tree
    waits for it.

    Returns:
        Ids in ascending order, and their sums in float32 or wider.
    """
    order = (addends.ids * count + addends.addend).argsort()
    ids, node = addends.ids[order], addends.addend[order]
    values = addends.values.index_select(0, order)
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    for _ in range((count - 1).bit_length()):
        # Neighbours in the tree are neighbours in this order, if both are there.
        node = node >> 1
        right = F.pad((ids[1:] == ids[:-1]) & (node[1:] == node[:-1]), (1, 0))
        left = (~right).nonzero().flatten()
        right = right.nonzero().flatten()
        values[right - 1] += values[right]
        ids, node, values = ids[left], node[left], values[left]
    return ids, values
