"""Seconds of a device's kernels: each takes as long as its products or its bytes need, and a floor beside that."""

from __future__ import annotations

import math
from dataclasses import dataclass

from homegrown.plan.facts import Machine
from homegrown.plan.serving.constants import Constants
from homegrown.plan.serving.setup import WIDTH

TILE = 64
"""Rows that a matrix unit multiplies at once; fewer are padded."""


@dataclass(frozen=True)
class Clock:
    """A device of one world, and how well kernels use it."""

    machine: Machine
    constants: Constants

    def product(self, rows: float, inner: float, outer: float, dtype: str) -> float:
        """Seconds of [rows, inner] x [inner, outer] with weights that are read from memory."""
        flops = 2 * padded(rows) * inner * outer
        numbers = WIDTH[dtype] * (inner * outer + rows * inner) + WIDTH["bf16"] * rows * outer
        return self.kernel(flops, numbers, dtype, self.constants.product_share)

    def experts(self, rows: float, experts: float, inner: float, outer: float, dtype: str) -> float:
        """Seconds of so many products at once, each with rows of its own."""
        flops = 2 * experts * padded(rows) * inner * outer
        numbers = experts * (WIDTH[dtype] * (inner * outer + rows * inner) + WIDTH["bf16"] * rows * outer)
        return self.kernel(flops, numbers, dtype, self.constants.grouped_share)

    def kernel(self, flops: float, size: float, dtype: str, share: float) -> float:
        """Seconds of a kernel that computes so much at a share of the ceiling and moves so many bytes."""
        computing = flops / (self.machine.products[dtype] * share)
        return max(computing, size / self.streaming) * self.constants.model_error + self.constants.kernel_floor

    def stream(self, size: float, kernels: float = 1) -> float:
        """Seconds of kernels that only move bytes."""
        return size / self.streaming * self.constants.model_error + kernels * self.constants.kernel_floor

    @property
    def streaming(self) -> float:
        """Bytes/s of memory that kernels reach."""
        return self.machine.bandwidth * self.constants.memory_share


def padded(rows: float) -> float:
    """Rows that are computed for so many; a mean over groups of unequal size is padded smoothly."""
    if rows == int(rows):
        return math.ceil(rows / TILE) * TILE
    return max(rows, TILE * (1 - math.exp(-rows))) + (TILE / 2 if rows > TILE else 0.0)
