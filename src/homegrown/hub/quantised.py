"""Eight-bit weights back to numbers.

Published FP8 weights are e4m3 with one float32 scale per block (`<name>_scale_inv`, w ≈ q · scale, as DeepSeek-V3
introduced); INT8 ones have a scale per output row (`<name>_scale`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from homegrown.hub.errors import HubError
from homegrown.hub.tensorfile import NAMES, Stored

SCALES = ("_scale_inv", "_scale")
"""Suffixes of a scale's name; INT8 releases use either."""
SCALE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LOADED = torch.bfloat16
"""What eight-bit weights become unless another dtype is asked for."""


@dataclass(frozen=True)
class Quantised:
    """How one matrix is quantised: `scale` is a tensor's name, `block` the rows and columns under one scale."""

    scale: str
    block: tuple[int, int]


def scheme(weight: Stored, tensors: Mapping[str, Stored], block: tuple[int, int]) -> Quantised | None:
    """How a weight is quantised; None if it is not.

    Args:
        weight: the tensor.
        tensors: all tensors, among them its scale.
        block: block size of FP8 weights in this checkpoint.

    Raises:
        HubError: eight-bit without a scale, a scale of the wrong shape, or a dtype that is no weight's.
    """
    if weight.dtype in (torch.float32, torch.bfloat16, torch.float16):
        return None
    if weight.dtype not in (torch.float8_e4m3fn, torch.int8):
        raise HubError(
            f"{weight.file}: tensor {weight.name} is {weight}; weights are F32, BF16 or F16, or F8_E4M3 or I8 scaled"
        )
    if len(weight.shape) != 2:
        raise HubError(f"{weight.file}: tensor {weight.name} is {weight}; only matrices can be eight-bit")
    name = next((weight.name + suffix for suffix in SCALES if weight.name + suffix in tensors), None)
    if name is None:
        raise HubError(f"{weight.file}: tensor {weight.name} is {weight}, but {weight.name}{SCALES[0]} is missing")
    rows, columns = weight.shape
    if weight.dtype == torch.int8:
        block = (1, columns)
    _check_scale(weight, tensors[name], (-(-rows // block[0]), -(-columns // block[1])))
    return Quantised(name, block)


def dequantise(values: Tensor, scale: Tensor, block: tuple[int, int], first_row: int) -> Tensor:
    """Multiply by the scales, in float32.

    Args:
        values: eight-bit [r, c], rows first_row .. first_row + r of a matrix.
        scale: [ceil(rows / block rows), ceil(c / block columns)] of the whole matrix.
        block: rows and columns under one scale.
        first_row: of the matrix.

    Returns:
        float32 [r, c].
    """
    rows, columns = values.shape
    of_row = torch.arange(first_row, first_row + rows) // block[0]
    wide = scale.float()[of_row].repeat_interleave(block[1], dim=1)[:, :columns]
    return values.float().mul_(wide)


def _check_scale(weight: Stored, scale: Stored, expected: tuple[int, int]) -> None:
    shapes = [expected, expected[:1]] if expected[1] == 1 and weight.dtype == torch.int8 else [expected]
    if scale.shape not in shapes or scale.dtype not in SCALE_DTYPES:
        raise HubError(
            f"{scale.file}: tensor {scale.name} is {scale}, expected F32 {list(expected)}: it scales "
            f"{NAMES[weight.dtype]} {list(weight.shape)}"
        )
