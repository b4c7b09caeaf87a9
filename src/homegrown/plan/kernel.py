"""Kernels: operations, bytes and sizes of what a device executes, and the pen that writes them down."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from homegrown.plan.layout import Layout, Recompute

Kind = Literal["matmul", "attention", "memory", "lookup"]
"""What bounds a kernel: products on the matrix units; attention on them, with its softmax; bytes in order; rows of a
large table."""

ITEM = {"bf16": 2.0, "fp32": 4.0, "fp8": 1.0, "int8": 1.0, "fp4": 0.5}
"""Bytes of a number."""
KEPT = {"bf16": 2.0, "fp32": 4.0, "fp8": 1.0 + 1 / 32, "int8": 1.0 + 1 / 32, "fp4": 0.5 + 1 / 16}
"""Bytes of a number with its share of a scale: float32 for 128 numbers (arXiv 2412.19437 section 3.3.2), eight bits for
16 of the narrowest."""


class Kernel(NamedTuple):
    """One kernel, or several alike that are launched together.

    Attributes:
        name: what it computes, in words.
        part: component of the model.
        flops, bytes: of all its products together; bytes move to and from the device's memory.
        dtype: of the products, or of the numbers moved.
        rows, inner, columns: sizes of one product [rows, inner] x [inner, columns]; 0 where there is none.
        products: how many products of that size.
    """

    name: str
    part: str
    kind: Kind
    flops: float
    bytes: float
    dtype: str = "bf16"
    rows: float = 0.0
    inner: float = 0.0
    columns: float = 0.0
    products: float = 1.0


@dataclass(frozen=True, eq=False)
class Kernels:
    """What a layer, the embedding or the head executes for one micro-batch. Objects are shared between layouts that
    execute the same, so that what is known of one (its time) can be kept by identity.

    Attributes:
        forward, backward: passes.
        again: what the backward pass does once more because it was not kept.
    """

    name: str
    forward: tuple[Kernel, ...]
    backward: tuple[Kernel, ...]
    again: tuple[Kernel, ...] = ()

    def __iter__(self) -> Iterator[Kernel]:
        """All of them, forward first."""
        yield from self.forward
        yield from self.again
        yield from self.backward


class Cut(NamedTuple):
    """All of a layout that kernels of a layer depend on; see `layout.Layout`.

    Attributes:
        rows: sequences of a micro-batch.
    """

    rows: int
    sequence: int
    tp: int
    cp: int
    ep: int
    etp: int
    sequence_parallel: bool
    recompute: Recompute
    precision: str
    fused: bool

    @property
    def tokens(self) -> float:
        """Tokens that the devices of a tensor-parallel group work on together."""
        return self.rows * self.sequence / self.cp

    @property
    def own(self) -> float:
        """Tokens of a device between the blocks that are cut."""
        return self.tokens / self.tp if self.sequence_parallel else self.tokens

    @property
    def routed(self) -> float:
        """Tokens that a device routes to experts: always its own share."""
        return self.tokens / self.tp


def cut_of(layout: Layout) -> Cut:
    """What of a layout matters to the kernels of a layer."""
    return Cut(
        layout.micro_batch, layout.sequence, layout.tp, layout.cp, layout.ep, layout.etp, layout.sequence_parallel,
        layout.recompute, layout.precision, layout.fused,
    )  # fmt: skip


class Recorder:
    """Writes down kernels of a forward pass, each with what its backward pass needs.

    Bytes are given as they are in bfloat16; a run in float32 moves twice as many. `again` marks what selective
    recomputation does once more.

    Args:
        cut: sizes.
        part: component that everything belongs to; empty, as each kernel says.

    Attributes:
        plain: dtype of what is not multiplied in a narrower one: activations, attention, the head.
    """

    def __init__(self, cut: Cut, part: str = "") -> None:
        self.cut, self._part = cut, part
        self.plain = "fp32" if cut.precision == "fp32" else "bf16"
        self._scale = ITEM[self.plain] / ITEM["bf16"]
        self.forward: list[Kernel] = []
        self.backward: list[Kernel] = []
        self._again: list[Kernel] = []

    def done(self, name: str) -> Kernels:
        """What was written down. Full recomputation does all of a layer again."""
        again: dict[Recompute, list[Kernel]] = {"none": [], "selective": self._again, "full": self.forward}
        return Kernels(name, tuple(self.forward), tuple(reversed(self.backward)), tuple(again[self.cut.recompute]))

    def product(
        self, name: str, part: str, rows: float, inner: float, columns: float, *, products: float = 1.0,
        dtype: str = "", again: bool = False, detached: bool = False,
    ) -> None:  # fmt: skip
        """A product of rows with a weight matrix; backward one with its transpose and one of rows with rows, whose
        result is added to a float32 gradient.

        Args:
            products: how many, each with rows and weights of its own.
            dtype: of the product; empty, what the layout says.
            detached: no gradient flows to the rows.
        """
        dtype = dtype or self.cut.precision
        item, wide = ITEM[dtype], max(ITEM[dtype], ITEM[self.plain])
        flops = 2.0 * products * rows * inner * columns
        read, weights, made = products * rows * inner, products * inner * columns, products * rows * columns
        forward = Kernel(
            name, part, "matmul", flops, item * (read + weights) + wide * made, dtype, rows, inner, columns, products
        )
        self._forward(forward, again)
        self._backward(
            Kernel(
                f"{name}, weights", part, "matmul", flops, item * (read + made) + 8.0 * weights, dtype, inner, rows,
                columns, products,
            )
        )  # fmt: skip
        if not detached:
            self._backward(
                Kernel(
                    f"{name}, rows", part, "matmul", flops, item * (made + weights) + wide * read, dtype, rows, columns,
                    inner, products,
                )
            )  # fmt: skip
        if item < ITEM["bf16"]:
            # Rows are rounded before every product, and their gradients after; weights once a step.
            self._forward(Kernel(f"{name}, rounding", part, "memory", 0.0, (2.0 + item) * read, dtype), again)
            self._backward(Kernel(f"{name}, rounding", part, "memory", 0.0, (2.0 + item) * made, dtype))

    def memory(
        self, name: str, part: str, forward: float, backward: float, *, again: bool = False, kind: Kind = "memory"
    ) -> None:
        """A kernel that only moves numbers, so many bytes in each pass."""
        self._forward(Kernel(name, part, kind, 0.0, self._scale * forward, self.plain), again)
        if backward:
            self._backward(Kernel(name, part, kind, 0.0, self._scale * backward, self.plain))

    def other(self, forward: Kernel, *backward: Kernel, again: bool = False) -> None:
        """Kernels that are no product with weights, in `plain`."""
        self._forward(self._plain(forward), again)
        for kernel in backward:
            self._backward(self._plain(kernel))

    def _plain(self, kernel: Kernel) -> Kernel:
        if self.plain == kernel.dtype:
            return kernel
        return kernel._replace(bytes=self._scale * kernel.bytes, dtype=self.plain)

    def _forward(self, kernel: Kernel, again: bool) -> None:
        kernel = kernel._replace(part=self._part) if self._part else kernel
        self.forward.append(kernel)
        if again:
            self._again.append(kernel)

    def _backward(self, kernel: Kernel) -> None:
        self.backward.append(kernel._replace(part=self._part) if self._part else kernel)
