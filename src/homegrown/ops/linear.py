"""Products with weight matrices."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from homegrown.ops.registry import Op


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """y = W x (+ b) for every row: x [..., in], weight [out, in], bias [out] -> [..., out]."""
    return F.linear(x, weight, bias)


linear = Op("linear", _linear)
