"""Gradients of a step: one leaf per micro-batch, added up in a fixed binary tree."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

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

    def totals(self) -> dict[str, Tensor]:
        """This rank's gradients, by name; parameters that got none are absent. The next step begins anew."""
        sums, self._sums = self._sums, {}
        totals = {name: accumulator.total() for name, accumulator in sums.items()}
        return {name: total for name, total in totals.items() if total is not None}
