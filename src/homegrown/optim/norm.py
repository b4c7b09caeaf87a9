"""A norm of all gradients that does not depend on the number of threads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_WIDTH = 4096


def global_norm(tensors: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm of all numbers in `tensors`: a float32 scalar tensor.

    Computed as norms of norms of rows of fixed width, so that every partial sum has its own fixed order: PyTorch may
    split a reduction to one number among its threads, a reduction to many numbers it splits between them.
    """
    return _norm(torch.stack([_norm(tensor) for tensor in tensors]))


def _norm(tensor: Tensor) -> Tensor:
    flat = tensor.reshape(-1)
    while flat.numel() > _WIDTH:
        whole = flat.numel() // _WIDTH * _WIDTH
        rows = torch.linalg.vector_norm(flat[:whole].view(-1, _WIDTH), dim=1, dtype=torch.float32)
        flat = torch.cat([rows, flat[whole:].to(torch.float32)])
    return torch.linalg.vector_norm(flat, dtype=torch.float32)
