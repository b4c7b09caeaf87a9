"""Weights in eight bits: integers with one scale for each output row, multiplied without ever being wide as a whole.

Only weights are integers. Activations stay what they are, so a product reads half the bytes of one in 16 bits, and the
error is that of rounding the weights.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from homegrown.ops.registry import Op

MOST = 127
"""The largest integer; −128 is not used, so that a weight and its negative round alike."""
PACKED_ROWS = 8
"""Up to this many rows PyTorch's packed product is the faster one (measured, see docs/log.md)."""
TILE = 1 << 21
"""Bytes of widened weights at a time on a CPU: they are multiplied while they are still in its cache."""
ALIGNED = 64
"""Bytes. The packed product reads with aligned vector instructions, and a process dies of an address that is not."""
PACKED_INPUTS = 16
"""What its rows' length must be a multiple of, for the same reason."""


class Int8(NamedTuple):
    """Matrices W ≈ values · scale.

    Attributes:
        values: int8 [..., out, in], from −127 to 127.
        scale: [..., out], in the dtype that `scale_dtype` gives for the activations they will meet.
    """

    values: Tensor
    scale: Tensor


def scale_dtype(dtype: torch.dtype) -> torch.dtype:
    """What scales are kept in where activations are `dtype`: bfloat16 for bfloat16, as the packed product wants them;
    float32 for others (float16 would have too small a range)."""
    return dtype if dtype in (torch.bfloat16, torch.float64) else torch.float32


def quantise(weight: Tensor, dtype: torch.dtype) -> Int8:
    """Round to eight bits, symmetrically: scale = max |row| / 127, value = round(w / scale).

    The scale is rounded to its dtype first, so it is exact where it is used: a weight's error is at most scale / 2,
    which is max |row| / 254, and up to 0.2 % more for scales in bfloat16.

    Args:
        weight: [..., out, in], of any float dtype.
        dtype: of the activations.

    Raises:
        ValueError: a weight is not finite.
    """
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    most = wide.abs().amax(-1)
    if not most.isfinite().all():
        raise ValueError("a weight is not a finite number, and there is no scale for it")
    # A row of zeros, or of numbers so small that no scale could be told from zero, takes the least scale there is.
    scale = (most / MOST).clamp(min=torch.finfo(torch.float32).tiny).to(scale_dtype(dtype))
    values = (wide / scale.to(wide.dtype)[..., None]).round_().clamp_(-MOST, MOST).to(torch.int8)
    return Int8(values, scale)


def dequantise(weight: Int8) -> Tensor:
    """The matrices again, in float32 or wider: exact products of an integer and a scale, rounded once."""
    wide = torch.promote_types(weight.scale.dtype, torch.float32)
    return weight.values.to(wide) * weight.scale.to(wide)[..., None]


def int8_rows(table: Int8, ids: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows of a table: [R, W] at int64 ids [...] -> [..., W] in `dtype`. Only these rows are widened."""
    return dequantise(Int8(F.embedding(ids, table.values), table.scale[ids])).to(dtype)


def _int8_linear(x: Tensor, values: Tensor, scale: Tensor) -> Tensor:
    """y = (values · scale) x for every row: x [..., in], int8 values [out, in], scale [out] -> [..., out] as x is."""
    return F.linear(x, dequantise(Int8(values, scale)).to(x.dtype))


int8_linear = Op("int8_linear", _int8_linear)


@int8_linear.register("by_rows")
def _by_rows(x: Tensor, values: Tensor, scale: Tensor) -> Tensor:
    """Few rows by the packed product where there is one, which reads each byte once; else weights widened in tiles."""
    if x.shape[:-1].numel() <= PACKED_ROWS and takes_packed(x, values, scale):
        return _packed(x, values, scale)
    return _tiled(x, values, scale)


def takes_packed(x: Tensor, values: Tensor, scale: Tensor) -> bool:
    """Whether the packed product takes these tensors; it knows no errors, so nothing it cannot do may reach it."""
    return (
        x.is_cpu
        and x.dtype == scale.dtype == torch.bfloat16
        and values.shape[1] % PACKED_INPUTS == 0
        and x.numel() > 0
        and values.is_contiguous()
        and values.data_ptr() % PACKED_INPUTS == 0
        and packed_works()
    )


@lru_cache(maxsize=1)
def packed_works() -> bool:
    """Whether this PyTorch has a packed product of bfloat16 with int8 on this processor, and it gives right results."""
    generator = torch.Generator().manual_seed(0)
    try:
        for rows, inputs in ((1, 64), (3, 32), (PACKED_ROWS, 192)):
            x = torch.randn(rows, inputs, generator=generator).bfloat16()
            weight = quantise(torch.randn(48, inputs, generator=generator), torch.bfloat16)
            got, wanted = _packed(x, *weight).double(), _int8_linear(x.double(), *weight)
            if (got - wanted).abs().max() > 0.02 * wanted.abs().max():
                return False
    except (AttributeError, RuntimeError):  # no such operator, or none for this processor
        return False
    return True


def int8_product_of(dtype: torch.dtype, device: torch.device) -> str:
    """In words, for the lines a run prints at its start: how `int8_linear` multiplies in `dtype` on `device`."""
    tiled = (
        "weights widened piece by piece in the cache" if device.type == "cpu" else "weights widened as they are read"
    )
    if device.type != "cpu" or dtype != torch.bfloat16:
        return f"{tiled} (there is a packed product for bfloat16 on CPUs only)"
    if not packed_works():
        return f"{tiled} (this PyTorch has no working packed product for this processor)"
    return f"packed product for up to {PACKED_ROWS} rows, {tiled} for more"


def _packed(x: Tensor, values: Tensor, scale: Tensor) -> Tensor:
    flat = x.reshape(-1, x.shape[-1]).contiguous()
    if flat.data_ptr() % ALIGNED:
        flat = flat.clone()
    product: Tensor = torch.ops.aten._weight_int8pack_mm(flat, values, scale)
    return product.view(*x.shape[:-1], values.shape[0])


def _tiled(x: Tensor, values: Tensor, scale: Tensor) -> Tensor:
    """Integers are exact in every dtype, so scales wait for the result."""
    step = max(1, TILE // (values.shape[1] * x.dtype.itemsize)) if x.is_cpu else values.shape[0]
    parts = [F.linear(x, tile.to(x.dtype)) for tile in values.split(step)]
    return (parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)).mul_(scale)
