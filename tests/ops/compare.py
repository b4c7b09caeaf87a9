"""Ways to compare an op's implementations with its reference on fresh random inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from homegrown import ops


@dataclass
class Outcome:
    """An op's output, and the gradient of a random projection of it with respect to every input."""

    output: Tensor
    grads: list[Tensor]


def run(op: Callable[..., Any], inputs: Sequence[Tensor], dtype: torch.dtype) -> Outcome:
    """Call `op(*inputs)` in `dtype` and differentiate; the projection's weights do not depend on dtype or call."""
    leaves = [item.detach().to(dtype, copy=True).requires_grad_() for item in inputs]
    result = op(*leaves)
    generator = torch.Generator().manual_seed(7)
    weights = torch.randn(result.shape, generator=generator, dtype=torch.float64).to(result.dtype)
    (result * weights).sum().backward()
    return Outcome(result.detach(), [leaf.grad for leaf in leaves if leaf.grad is not None])


def worst(got: Outcome, wanted: Outcome) -> float:
    """Largest error of the output or any gradient, relative to the largest entry of that tensor."""
    pairs = [(got.output, wanted.output), *zip(got.grads, wanted.grads, strict=True)]
    return max(relative(a, b) for a, b in pairs)


def relative(got: Tensor, wanted: Tensor) -> float:
    """max |got − wanted| / max |wanted|."""
    assert got.shape == wanted.shape
    wide = wanted.double()
    return float((got.double() - wide).abs().max() / wide.abs().max().clamp(min=1e-30))


TOLERANCE = {
    # Sums of up to a few hundred terms in another order: some tens of roundings.
    torch.float64: 1e-13,
    torch.float32: 1e-5,
    # Several roundings to 8 bits of mantissa (2⁻⁹ each) on the way from input to gradient.
    torch.bfloat16: 4e-2,
}


def implementations(name: str) -> list[str]:
    """Every implementation of an op but its reference."""
    return [key for key in ops.OPS[name].implementations if key != "reference"]


def check(name: str, call: Callable[..., Tensor], inputs: Sequence[Tensor], dtype: torch.dtype) -> None:
    """Compare every implementation in `dtype` with the reference in float64 on the same (rounded) inputs."""
    rounded = [item.to(dtype) for item in inputs]
    with ops.using(**{name: "reference"}):
        wanted = run(call, rounded, torch.float64)
    assert implementations(name)
    for key in implementations(name):
        with ops.using(**{name: key}):
            got = run(call, rounded, dtype)
        assert all(grad.dtype == dtype for grad in got.grads)
        assert worst(got, wanted) < TOLERANCE[dtype], key
