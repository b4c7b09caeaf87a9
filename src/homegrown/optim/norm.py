"""Norms whose bits do not depend on the number of threads, nor on who holds what."""

from __future__ import annotations

import torch
from torch import Tensor

from homegrown.optim.slots import Slot

_WIDTH = 4096


def piece_norms(slot: Slot) -> Tensor:
    """Euclidean norm of the gradient of each of a slot's pieces, float32 [pieces]; each piece by itself.

    Rows that a sparse gradient does not name count as zeros.
    """
    gradient = slot.gradient
    if gradient is None:
        raise ValueError(f"parameter {slot.name!r} has no gradient")
    if not gradient.is_sparse:
        return torch.stack([norm(piece) for piece in slot.cut(gradient)])
    stops = torch.tensor(slot.borders[1:], device=gradient.device) - slot.borders[0]
    piece = torch.searchsorted(stops, gradient.indices()[0], right=True)
    squares = torch.linalg.vector_norm(gradient.values(), dim=1, dtype=torch.float32).square_()
    return squares.new_zeros(len(stops)).index_add_(0, piece, squares).sqrt_()


def norm(tensor: Tensor) -> Tensor:
    """The Euclidean norm of all numbers: a float32 scalar tensor.

    Computed as norms of norms of rows of fixed width, so that every partial sum has its own fixed order: PyTorch may
    split a reduction to one number among its threads, a reduction to many numbers it splits between them.
    """
    flat = tensor.reshape(-1)
    while flat.numel() > _WIDTH:
        whole = flat.numel() // _WIDTH * _WIDTH
        rows = torch.linalg.vector_norm(flat[:whole].view(-1, _WIDTH), dim=1, dtype=torch.float32)
        flat = torch.cat([rows, flat[whole:].to(torch.float32)]) if whole < flat.numel() else rows
    return torch.linalg.vector_norm(flat, dtype=torch.float32)
