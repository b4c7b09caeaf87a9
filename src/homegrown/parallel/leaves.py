"""Gradients of a step: one leaf per micro-batch, added up in a fixed binary tree."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from homegrown.parallel.tree import Accumulator


class Leaves:
    """Takes each micro-batch's gradients out of the parameters and adds them up.

    With one micro-batch they pass through as they are; several are summed in float32 or wider, in the order of
    `tree.tree_sum`: a rank's sum is then a subtree of the global batch's, and the number of ranks does not show in the
    bits. Sparse gradients are coalesced leaf by leaf.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Accumulator] = {}

    def take(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        """Take what the backward pass of a micro-batch left in these parameters."""
        for name, parameter in parameters:
            gradient = parameter.grad
            if gradient is not None:
                parameter.grad = None
                self._sums.setdefault(name, Accumulator()).push(gradient.coalesce() if gradient.is_sparse else gradient)

    def give(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        """Give the parameters their gradients back, summed; those that got none have none. The next step begins
        anew."""
        sums, self._sums = self._sums, {}
        for name, parameter in parameters:
            if name in sums:
                # A sum may be wider than what the next backward pass will bring.
                parameter.grad_dtype = None
                parameter.grad = sums[name].total()
