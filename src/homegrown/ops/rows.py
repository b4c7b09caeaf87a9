"""Several rows in one pass, each of them to the last bit what it would be alone.

A product of four rows with a matrix may add up in another order than four products of one row, and so may reductions;
a vectorised loop treats the end of a tensor otherwise than its middle, wherever a row's numbers happen to lie. Results
then differ in the last bits, and a model makes hard choices on such bits: the top token, the chosen experts and keys.
Within `row_by_row` no row depends on how many there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from homegrown.ops.registry import Implementation, wrapping


@contextmanager
def row_by_row() -> Iterator[None]:
    """Run a block in which every row of a pass comes out as if it were alone, bit for bit.

    Rows stand in the second to last dimension, all others but the last have size one. Norms, gates and experts take
    one row at a time: they are cheap, or read other weights for each row anyway. A product with a matrix, which costs
    what it costs to read the matrix, takes the rows together wherever that provably adds up in the same order.
    """
    one, two, three = (partial(_apart, rowed=rowed) for rowed in (1, 2, 3))
    with wrapping("row by row", linear=_product, rms_norm=one, swiglu=two, experts=three):
        yield


def row(tensor: Tensor, number: int, dim: int = -2) -> Tensor:
    """One row of a tensor in memory of its own, laid out as a tensor of one row is."""
    return tensor.narrow(dim, number, 1).clone(memory_format=torch.contiguous_format)


def _apart(implementation: Implementation, rowed: int) -> Implementation:
    """The first `rowed` arguments one row at a time."""

    def run(*args: Any) -> Tensor:
        tensors, rest = args[:rowed], args[rowed:]
        count = tensors[0].shape[-2]
        if count <= 1:
            return implementation(*args)
        parts = [implementation(*(row(tensor, number) for tensor in tensors), *rest) for number in range(count)]
        return torch.cat(parts, dim=-2)

    return run


def _product(implementation: Implementation) -> Implementation:
    apart = _apart(implementation, rowed=1)

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        shape = (x.shape[-2], *weight.shape)
        if bias is None and order_kept(implementation, *shape, x.dtype, x.device, torch.get_num_threads()):
            return implementation(x, weight)
        return apart(x, weight, bias)

    return run


@lru_cache(maxsize=1024)
def order_kept(
    implementation: Implementation,
    rows: int,
    outputs: int,
    inputs: int,
    dtype: torch.dtype,
    device: torch.device,
    threads: int,
) -> bool:
    """Whether a product of that shape adds up each row in the order in which it adds up a row alone.

    Which order a kernel takes depends on shapes, not on values, so it can be read off a product made for it: its true
    result is zero, and what comes out is the rounding error, the fingerprint of the order.

    Args:
        implementation: of `linear`.
        rows, outputs, inputs: shape of the product.
        dtype, device, threads: what else decides on the kernel.
    """
    x, weight = (item.to(device) for item in _cancelling(rows, outputs, inputs, dtype))
    alone = [implementation(row(x, number), weight) for number in range(rows)]
    return torch.equal(implementation(x, weight), torch.cat(alone, dim=-2))


def _cancelling(rows: int, outputs: int, inputs: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x [rows, inputs] and W [outputs, inputs] with x Wᵀ = 0, made of terms whose size spans the mantissa.

    Columns come in pairs at random places: the same x, opposite W. Partial sums are large and inexact, and what is left
    of them in the end depends on the order they were added in.
    """
    generator = torch.Generator().manual_seed(0)
    mantissa = -math.log2(torch.finfo(torch.promote_types(dtype, torch.float32)).eps)
    spread = int(min(mantissa, math.log2(torch.finfo(dtype).max) - 4))
    pairs = inputs // 2
    first, second = torch.randperm(inputs, generator=generator)[: 2 * pairs].chunk(2)

    def values(count: int, spread: int) -> Tensor:
        exponent = torch.randint(-spread, spread + 1, (count, pairs), generator=generator, dtype=torch.float64)
        return torch.randn(count, pairs, generator=generator, dtype=torch.float64).to(dtype) * exponent.exp2().to(dtype)

    x, weight = torch.zeros(rows, inputs, dtype=dtype), torch.zeros(outputs, inputs, dtype=dtype)
    x[:, first] = x[:, second] = values(rows, 0)
    few = values(min(outputs, 256), spread)
    weight[:, first] = few.repeat(-(-outputs // len(few)), 1)[:outputs]
    weight[:, second] = -weight[:, first]
    return x, weight
