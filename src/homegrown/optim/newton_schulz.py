"""The orthogonalisation at the heart of Muon."""

from __future__ import annotations

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""The quintic of Keller Jordan's Muon: steepest at zero, at the price of singular values in about [0.7, 1.2]."""

TINY = 1e-20
"""Norm below which a matrix counts as nearly zero: its squares leave float32's range."""

ALIGNMENT = 64
"""Bytes at whose multiples every matrix of a batch begins. Kernels of batched products differ in the last bits between
aligned and other addresses, and where a matrix falls must not depend on how many others stand before it."""


def orthogonalize(matrices: Tensor, steps: int, dtype: torch.dtype) -> Tensor:
    """U Vᵀ of each matrix U S Vᵀ, approximately, by the Newton-Schulz iteration.

    X ← a X + (b A + c A²) X with A = X Xᵀ, from X = M / ‖M‖. Matrices higher than wide are transposed, so that the
    Gram matrix A is the smaller of the two.

    Args:
        matrices: float32 `[..., rows, cols]`; each matrix is treated alone, its bits do not depend on the others
            where the device's batched product is such. A zero matrix stays zero.
        steps: iterations; five bring singular values above about 1e-3 of the norm near one.
        dtype: of the products. They run in two buffers of this shape and two of the Gram matrices' shape.

    Returns:
        float32, the shape of `matrices`.
    """
    rows, cols = matrices.shape[-2:]
    if rows > cols:
        return orthogonalize(matrices.mT, steps, dtype).mT
    a, b, c = COEFFICIENTS
    norm = torch.linalg.vector_norm(matrices, dim=(-2, -1), keepdim=True).clamp_min_(TINY)
    count = matrices.shape[:-2].numel()
    x, y = (_aligned(matrices, dtype, count, rows, cols) for _ in range(2))
    gram, polynomial = (_aligned(matrices, dtype, count, rows, rows) for _ in range(2))
    torch.div(matrices.reshape(x.shape), norm.reshape(-1, 1, 1), out=x)
    for _ in range(steps):
        torch.bmm(x, x.mT, out=gram)
        torch.baddbmm(gram, gram, gram, beta=b, alpha=c, out=polynomial)
        torch.baddbmm(x, polynomial, x, beta=a, out=y)
        x, y = y, x
    return x.to(torch.float32).reshape(matrices.shape)


def _aligned(like: Tensor, dtype: torch.dtype, count: int, rows: int, cols: int) -> Tensor:
    """An empty batch [count, rows, cols], each matrix dense and aligned."""
    unit = ALIGNMENT // dtype.itemsize
    padded = -(-rows * cols // unit) * unit
    return like.new_empty(count, padded, dtype=dtype)[:, : rows * cols].unflatten(1, (rows, cols))
