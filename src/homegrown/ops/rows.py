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

from homegrown.ops.int8 import MOST, scale_dtype
from homegrown.ops.registry import Implementation, wrapping

DISTINCT = 256
"""Rows of weights that are made up to find an order out; more repeat them."""


@contextmanager
def row_by_row() -> Iterator[None]:
    """Run a block in which every row of a pass comes out as if it were alone, bit for bit.

    Rows stand in the second to last dimension, all others but the last have size one. Norms, gates and experts take
    one row at a time: they are cheap, or read other weights for each row anyway. A product with a matrix, which costs
    what it costs to read the matrix, takes the rows together wherever that provably adds up in the same order.
    """
    one, two, three = (partial(_apart, rowed=rowed) for rowed in (1, 2, 3))
    products = {"linear": _product, "int8_linear": _int8_product}
    with wrapping("row by row", **products, rms_norm=one, swiglu=two, experts=three, int8_experts=three):
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


def _int8_product(implementation: Implementation) -> Implementation:
    """As many rows together as add up in the order of one: which kernel is taken changes with the number of rows."""
    apart = _apart(implementation, rowed=1)

    def run(x: Tensor, values: Tensor, scale: Tensor) -> Tensor:
        def kept(rows: int) -> bool:
            threads = torch.get_num_threads()
            return order_kept(implementation, rows, *values.shape, x.dtype, x.device, threads, int8=True)

        rows = together = x.shape[-2]
        while together > 1 and not kept(together):
            together //= 2
        if together == rows:
            return implementation(x, values, scale)
        # Pieces get memory of their own, laid out as the product was when its order was found out.
        parts = (part.clone(memory_format=torch.contiguous_format) for part in x.split(together, dim=-2))
        return torch.cat(
            [(implementation if kept(part.shape[-2]) else apart)(part, values, scale) for part in parts], dim=-2
        )

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
    int8: bool = False,
) -> bool:
    """Whether a product of that shape adds up each row in the order in which it adds up a row alone.

    Which order a kernel takes depends on shapes, not on values, so it can be read off a product made for it: its true
    result is zero, and what comes out is the rounding error, the fingerprint of the order.

    Args:
        implementation: of `linear`, or of `int8_linear`.
        rows, outputs, inputs: shape of the product.
        dtype, device, threads: what else decides on the kernel.
        int8: the weights are integers with scales.
    """
    if rows == 1:
        return True
    made = _cancelling_int8(rows, outputs, inputs, dtype) if int8 else _cancelling(rows, outputs, inputs, dtype)
    x, *weight = (item.to(device) for item in made)
    alone = [implementation(row(x, number), *weight) for number in range(rows)]
    return torch.equal(implementation(x, *weight), torch.cat(alone, dim=-2))


def _cancelling(rows: int, outputs: int, inputs: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x [rows, inputs] and W [outputs, inputs] with x Wᵀ = 0, made of terms whose size spans the mantissa.

    Columns come in pairs at random places: the same x, opposite W. Partial sums are large and inexact, and what is left
    of them in the end depends on the order they were added in.
    """
    generator = torch.Generator().manual_seed(0)
    first, second = _pairs(inputs, generator)
    x, weight = torch.zeros(rows, inputs, dtype=dtype), torch.zeros(outputs, inputs, dtype=dtype)
    x[:, first] = x[:, second] = _spread(rows, len(first), dtype, 0, generator)
    few = _spread(min(outputs, DISTINCT), len(first), dtype, _mantissa(dtype), generator)
    weight[:, first] = few.repeat(-(-outputs // len(few)), 1)[:outputs]
    weight[:, second] = -weight[:, first]
    return x, weight


def _cancelling_int8(rows: int, outputs: int, inputs: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """The same with integers for weights, which span little: here it is x whose sizes differ. Scales are one."""
    generator = torch.Generator().manual_seed(0)
    first, second = _pairs(inputs, generator)
    x, values = torch.zeros(rows, inputs, dtype=dtype), torch.zeros(outputs, inputs, dtype=torch.int8)
    x[:, first] = x[:, second] = _spread(rows, len(first), dtype, _mantissa(dtype), generator)
    few = torch.randint(1, MOST + 1, (min(outputs, DISTINCT), len(first)), generator=generator, dtype=torch.int8)
    values[:, first] = few.repeat(-(-outputs // len(few)), 1)[:outputs]
    values[:, second] = -values[:, first]
    return x, values, torch.ones(outputs, dtype=scale_dtype(dtype))


def _pairs(inputs: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pairs of columns at random places; an odd one is left over."""
    first, second = torch.randperm(inputs, generator=generator)[: inputs // 2 * 2].chunk(2)
    return first, second


def _mantissa(dtype: torch.dtype) -> int:
    """Bits that sums of products in `dtype` are made with, or what its exponents leave of them."""
    bits = -math.log2(torch.finfo(torch.promote_types(dtype, torch.float32)).eps)
    return int(min(bits, math.log2(torch.finfo(dtype).max) - 4))


def _spread(rows: int, columns: int, dtype: torch.dtype, spread: int, generator: torch.Generator) -> Tensor:
    """Normal numbers times powers of two from −spread to spread."""
    shape = (rows, columns)
    exponent = torch.randint(-spread, spread + 1, shape, generator=generator, dtype=torch.float64)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) * exponent.exp2().to(dtype)
