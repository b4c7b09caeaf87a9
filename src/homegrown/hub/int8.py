"""Parameters that are rounded to eight bits as they are read: a model never lies in memory wider than that."""

from __future__ import annotations

import torch
from torch import Tensor

from homegrown.hub.errors import HubError
from homegrown.hub.mapping import Part, Shape
from homegrown.hub.weights import CheckpointWeights
from homegrown.ops import Int8, quantise, scale_dtype

PIECE = 1 << 20
"""Elements rounded at a time; in float32, and what rounding them needs, some 20 MB."""


def read_int8(weights: CheckpointWeights, ours: str, shape: Shape, device: torch.device, dtype: torch.dtype) -> Int8:
    """A parameter in eight bits, a scale for each of its rows.

    Matrices that are stored so already keep their integers; their scales are rounded to the dtype scales have, which is
    up to 0.2 % in bfloat16, as much as a bfloat16 result is rounded anyway.

    Args:
        weights: of a checkpoint.
        ours: our name of the parameter.
        shape: [..., out, in].
        device: where it goes.
        dtype: of the activations.

    Raises:
        HubError: a weight is not finite, or the files cannot be read.
    """
    read = Int8(
        torch.empty(shape, dtype=torch.int8, device=device),
        torch.empty(shape[:-1], dtype=scale_dtype(dtype), device=device),
    )
    rows = Int8(read.values.view(-1, shape[-1]), read.scale.view(-1))
    step = max(1, PIECE // shape[-1])
    for part in weights.parts(ours):
        begin, end = part.start // shape[-1], (part.start + part.count) // shape[-1]
        for first in range(begin, end, step):
            last = min(first + step, end)
            piece = _piece(weights, part, first - begin, last - first, shape[-1], dtype)
            rows.values[first:last] = piece.values
            rows.scale[first:last] = piece.scale
    return read


def _piece(weights: CheckpointWeights, part: Part, first: int, count: int, columns: int, dtype: torch.dtype) -> Int8:
    """Rows [first, first + count) of a published tensor."""
    if weights.has_int8_rows(part):
        return Int8(*weights.int8_rows(part, first, count))
    wide: Tensor = torch.empty(count * columns, dtype=torch.float32)
    weights.fill(part.ours, part.start + first * columns, wide)
    try:
        return quantise(wide.view(count, columns), dtype)
    except ValueError as error:
        where = f"{weights.file(part)}: tensor {part.published}, rows {first} to {first + count}"
        raise HubError(f"{where}: {error}") from None
