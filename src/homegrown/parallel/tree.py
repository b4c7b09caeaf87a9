"""Sums whose order is a fixed binary tree over the addends, whoever forms which part of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def tree_sum(parts: Sequence[Tensor]) -> Tensor:
    """Add neighbours, then neighbouring sums, and so on; an odd one is carried up.

    A run of 2^k addends that begins at a multiple of 2^k is summed by itself, so it may as well be summed elsewhere:
    the bits of the result do not depend on how the addends are spread, as long as each holder has such a run.
    Coalesced sparse addends give a coalesced sparse sum.
    """
    level = list(parts)
    while len(level) > 1:
        pairs = [add(level[index], level[index + 1]) for index in range(0, len(level) - 1, 2)]
        level = [*pairs, *level[len(pairs) * 2 :]]
    return level[0]


class Accumulator:
    """The same sum, of addends that come one after the other: a binary counter of partial sums.

    At any moment it holds as many tensors as the number of addends has ones in binary.
    """

    def __init__(self) -> None:
        self._levels: list[Tensor | None] = []

    def push(self, addend: Tensor) -> None:
        """Add the next one; it is kept or overwritten."""
        for level, partial in enumerate(self._levels):
            if partial is None:
                self._levels[level] = addend
                return
            addend = add(partial, addend)
            self._levels[level] = None
        self._levels.append(addend)

    def total(self) -> Tensor | None:
        """The sum so far, `None` of nothing; the accumulator is empty afterwards."""
        result: Tensor | None = None
        for partial in self._levels:
            if partial is not None:
                result = partial if result is None else add(partial, result)
        self._levels = []
        return result


def add(left: Tensor, right: Tensor) -> Tensor:
    """left + right, in float32 or wider; the left one is overwritten where that spares a tensor."""
    if left.is_sparse:
        indices = torch.cat((left.indices(), right.indices()), dim=1)
        values = torch.cat((_wide(left.values()), _wide(right.values())))
        return torch.sparse_coo_tensor(indices, values, left.shape, check_invariants=False).coalesce()
    wide = _wide(left)
    return wide.add_(right) if wide is not left or not wide.requires_grad else wide + right


def _wide(tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
