"""Seconds of kernels: the longer of what their operations and what their bytes take, and a launch.

seconds = max(FLOPs / (rate x efficiency of sizes), bytes / (bandwidth x share)) + launch (roofline: Williams, Waterman,
Patterson 2009, doi 10.1145/1498765.1498785). The rate is what large products were measured to reach on the chip; the
efficiency of sizes is the same function for all chips:

- rows and columns are rounded up to whole tiles; experts' rows vary, half a tile of each is lost;
- of w waves of tiles a constant part of one is lost at the end: w / (w + wave);
- a tile's beginning and end take as long as `depth` bytes of the inner dimension: k / (k + depth);
- attention's softmax takes as long as heads of a certain width would, and a block of queries begins and ends.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from homegrown.config.errors import ConfigError
from homegrown.plan.constants import Constants
from homegrown.plan.facts import Machine
from homegrown.plan.kernel import ITEM, Kernel, Kernels

BENCHMARKED = ("bf16", "fp8")
"""Precisions whose products are commonly measured."""


class Price(NamedTuple):
    """Seconds of what a layer, the embedding or the head executes for one micro-batch.

    Attributes:
        forward, backward: passes; `backward` without what is done again.
        again: recomputation. weights: the part of `backward` that gives gradients of weights.
        products_forward, products_backward: products in the passes, recomputation left out.
        experts_forward, experts_backward: what grows with the tokens that experts here receive; `experts_backward`
            includes its recomputation.
        core_forward, core_backward: attention cores.
        parts: both passes by component of the model.
        again_flops: operations of recomputation.
    """

    forward: float
    backward: float
    again: float
    weights: float
    products_forward: float
    products_backward: float
    experts_forward: float
    experts_backward: float
    core_forward: float
    core_backward: float
    parts: Mapping[str, float]
    again_flops: float


class Roofline:
    """Times kernels on one machine. What was timed is kept, by identity of `Kernels`."""

    def __init__(self, machine: Machine, constants: Constants) -> None:
        self._machine, self._constants = machine, constants
        self._moved = 1.0 / (machine.bandwidth * constants.memory)
        self._looked_up = 1.0 / (machine.bandwidth * constants.lookup)
        # At its power limit a chip does the same share of its peak in every precision. The lowest that was measured is
        # the least flattered by products too short to reach the limit.
        known = [dtype for dtype in BENCHMARKED if dtype in machine.products] or list(machine.products)
        self._share = constants.sustained * min(machine.products[dtype] / machine.peak[dtype] for dtype in known)
        self._prices: dict[Kernels, Price] = {}

    def price(self, kernels: Kernels) -> Price:
        """Seconds of a block's passes.

        Raises:
            ConfigError: the chip has no products of the precision.
        """
        known = self._prices.get(kernels)
        if known is None:
            known = self._prices[kernels] = self._price(kernels)
        return known

    def seconds(self, kernel: Kernel, backward: bool = False) -> float:
        """Seconds of one kernel.

        Raises:
            ConfigError: see `price`.
        """
        constants = self._constants
        error, launch = constants.error, constants.launch
        if kernel.kind == "memory":
            return self.moving(kernel.bytes)
        if kernel.kind == "lookup":
            return error * (kernel.bytes * self._looked_up + launch)
        efficiency = self.attention(kernel, backward) if kernel.kind == "attention" else self.product(kernel)
        computing = kernel.flops / (self.rate(kernel.dtype) * efficiency)
        return error * (max(computing, kernel.bytes * self._moved) + launch)

    def moving(self, size: float) -> float:
        """Seconds to read or write so many bytes in order."""
        return self._constants.error * (size * self._moved + self._constants.launch)

    def product(self, kernel: Kernel) -> float:
        """Share of the rate of large products that a product of these sizes reaches."""
        constants, tile = self._constants, self._constants.tile
        # How many rows an expert gets is chance: half a tile of its rows is lost on average, not a certain part.
        uneven = kernel.part == "experts" and kernel.products > 1
        rows = kernel.rows / tile + 0.5 if uneven else math.ceil(kernel.rows / tile)
        columns = math.ceil(kernel.columns / tile)
        filled = kernel.rows * kernel.columns / (rows * columns * tile * tile)
        # Tiles of large products are twice as wide as high; a narrow one gets narrower tiles.
        waves = rows * columns * kernel.products / (2.0 * constants.units)
        inner = kernel.inner * ITEM[kernel.dtype]
        return filled * waves / (waves + constants.wave) * inner / (inner + constants.depth)

    def attention(self, kernel: Kernel, backward: bool) -> float:
        """The same of attention that keeps its scores on the chip."""
        constants = self._constants
        best = constants.attention_backward if backward else constants.attention_forward
        width, keys = constants.attention_width, constants.attention_keys
        return best * kernel.inner / (kernel.inner + width) * kernel.columns / (kernel.columns + keys)

    def rate(self, dtype: str) -> float:
        """FLOP/s that endless products of a dtype reach.

        Raises:
            ConfigError: the chip has no such products.
        """
        peak = self._machine.peak
        if dtype == "fp32":
            return self._share * max(peak.get("fp32", 0.0), peak.get("bf16", 0.0) * self._constants.wide)
        if dtype not in peak:
            known = ", ".join(sorted(peak))
            raise ConfigError(f"layout.precision = {dtype}: this chip multiplies in {known}")
        return self._share * peak[dtype]

    def _price(self, kernels: Kernels) -> Price:
        forward, backward = _Sum(), _Sum()
        again = _Sum()
        for kernel in kernels.forward:
            forward.add(kernel, self.seconds(kernel))
        for kernel in kernels.again:
            again.add(kernel, self.seconds(kernel))
        for kernel in kernels.backward:
            backward.add(kernel, self.seconds(kernel, backward=True))
        parts = {part: forward.parts[part] + backward.parts[part] for part in {**forward.parts, **backward.parts}}
        return Price(
            forward.total, backward.total, again.total, backward.weights, forward.products, backward.products,
            forward.experts, backward.experts + again.experts, forward.core, backward.core, parts, again.flops,
        )  # fmt: skip


class _Sum:
    """Seconds of kernels, by what step times need to tell apart."""

    def __init__(self) -> None:
        self.total = self.products = self.weights = self.experts = self.core = self.flops = 0.0
        self.parts: defaultdict[str, float] = defaultdict(float)

    def add(self, kernel: Kernel, seconds: float) -> None:
        self.total += seconds
        self.flops += kernel.flops
        self.parts[kernel.part] += seconds
        if kernel.kind == "matmul":
            self.products += seconds
            if kernel.name.endswith(", weights"):
                self.weights += seconds
        elif kernel.kind == "attention":
            self.core += seconds
        if kernel.part == "experts":
            self.experts += seconds
