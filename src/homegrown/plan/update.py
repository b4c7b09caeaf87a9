"""Kernels of an optimizer step: what the fullest owner of optimizer state executes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from homegrown.plan.facts import Shape
from homegrown.plan.kernel import ITEM, Kernel
from homegrown.plan.layout import Layout
from homegrown.plan.matrices import Matrix, draft_matrices, layer_matrices
from homegrown.plan.states import Held, held_on

NEWTON_SCHULZ = 5
"""Iterations that orthogonalise an update (Keller Jordan 2024; arXiv 2502.16982 section 2)."""
ADAMW_BYTES = 30.0
"""For each number: gradient, master and two moments read, master and moments written, all float32; the weight written
in two bytes."""
MUON_BYTES = 24.0
"""Gradient, momentum and master read, momentum and master written, float32; two bytes for what is orthogonalised, and
two for the weight."""


class Class(NamedTuple):
    """Matrices alike: their smaller and larger side, and how many a stage holds."""

    low: int
    high: int
    number: float

    @property
    def flops(self) -> float:
        """To orthogonalise one: Gram matrix, its square, and the product with it, in each iteration."""
        return NEWTON_SCHULZ * (4.0 * self.low * self.low * self.high + 2.0 * self.low**3)


def update_kernels(shape: Shape, layout: Layout, stage: int) -> tuple[Kernel, ...]:
    """Kernels of one update on a device of a stage.

    AdamW moves bytes. Muon orthogonalises whole matrices, each at one owner (ZeRO-1): with as many owners as matrices
    or more, a step lasts as long as the largest takes. Of n-gram tables only rows that were looked up move.

    Raises:
        ConfigError: `layout.layers` does not fit the model.
    """
    held = held_on(shape, layout, stage)
    dense = layout.dp * layout.cp
    world, apart = dense * layout.tp, layout.ep * layout.etp
    replicas = world / apart
    muon = layout.optimizer == "muon"
    cut = sum(numbers / (min(layout.tp, limit) if limit else layout.tp) for limit, numbers in held.cut)
    ends = (held.ends - held.positions - held.shared / 2) / layout.tp + held.positions
    moved = (cut + ends) / _owners(layout, dense) + held.whole / _owners(layout, world)
    moved += held.routed / apart / _owners(layout, replicas)
    moved += _rows(shape, layout, held)
    if not muon:
        return (Kernel("AdamW", "optimizer", "memory", 0.0, ADAMW_BYTES * moved, "fp32"),)
    plain, routed = _classes(shape, held.layers, held.first, held.last)
    here = [kind._replace(number=kind.number / apart) for kind in routed]
    orthogonal = held.muon / _owners(layout, world) + held.muon_routed / apart / _owners(layout, replicas)
    return (
        Kernel("AdamW", "optimizer", "memory", 0.0, ADAMW_BYTES * max(moved - orthogonal, 0.0), "fp32"),
        Kernel("Muon", "optimizer", "memory", 0.0, MUON_BYTES * orthogonal, "fp32"),
        *_orthogonalised(plain, _owners(layout, world)),
        *_orthogonalised(here, _owners(layout, replicas)),
    )


def fullest(classes: Sequence[Class], owners: float) -> float:
    """FLOPs of the owner with most to orthogonalise, matrices dealt out whole and as evenly as can be.

    At least the mean; and, of the matrices no smaller than a given one, somebody has their number over the owners,
    rounded up.
    """
    ordered = sorted(classes, key=lambda kind: -kind.flops)
    mean = sum(kind.number * kind.flops for kind in ordered) / owners
    before, least = 0.0, mean
    for kind in ordered:
        before += kind.number
        least = max(least, math.ceil(before / owners - 1e-9) * kind.flops)
    return least


def _orthogonalised(classes: Sequence[Class], owners: float) -> Iterator[Kernel]:
    """Products of the fullest owner: its share of every kind of matrix, scaled to what it has in all."""
    mean = sum(kind.number * kind.flops for kind in classes) / owners
    if not mean:
        return
    scale = fullest(classes, owners) / mean / owners
    item = ITEM["bf16"]
    for low, high, number in classes:
        if not number:  # layers of a kind that this stage has none of
            continue
        products = scale * number * NEWTON_SCHULZ
        wide, square = float(low * high), float(low * low)
        for name, inner, columns, moved in (
            ("Gram matrix", high, low, wide + square),
            ("square", low, low, 2 * square),
            ("product", low, high, 2 * wide + square),
        ):
            flops = 2.0 * products * low * inner * columns
            yield Kernel(
                name, "optimizer", "matmul", flops, products * item * moved, "bf16", low, inner, columns, products
            )


def _owners(layout: Layout, members: float) -> float:
    """Among how many ranks a state of which `members` have the parameter is shared out."""
    return members if layout.zero else 1.0


def _rows(shape: Shape, layout: Layout, held: Held) -> float:
    """Numbers of n-gram rows of which a device updates its share."""
    tokens = layout.micro_batch * layout.sequence / (layout.cp * layout.tp) * layout.micro_batches
    share = held.tables / layout.embp / _owners(layout, layout.dp * layout.cp * layout.tp / layout.embp)
    return min(share, tokens * shape.ngram_tables * shape.ngram_width) if held.tables else 0.0


@lru_cache(maxsize=4096)
def _classes(
    shape: Shape, layers: tuple[int, ...], first: int, last: int
) -> tuple[tuple[Class, ...], tuple[Class, ...]]:
    """Matrices that Muon trains on a stage, without and of routed experts."""
    found: dict[bool, defaultdict[tuple[int, int], float]] = {False: defaultdict(float), True: defaultdict(float)}

    def add(matrices: Iterator[Matrix], times: float) -> None:
        for matrix in matrices:
            if matrix.hidden:
                low, high = sorted((matrix.inputs, matrix.outputs))
                found[matrix.routed][low, high] += times * matrix.copies

    for group, count in zip(shape.layers, layers, strict=True):
        add(layer_matrices(shape, group), count)
    if last and shape.draft is not None:
        add(draft_matrices(shape), last * shape.draft.count)
    if first and shape.ngram_tables:
        low, high = sorted((shape.ngram_width, shape.hidden))
        found[False][low, high] += shape.ngram_tables
    plain, routed = (
        tuple(Class(*sides, number) for sides, number in found[kind].items() if number) for kind in (False, True)
    )
    return plain, routed
