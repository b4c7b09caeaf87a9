"""Matrix products with checksums: sums of rows and columns of a result against what its factors say.

For Y = A Bᵀ, the sum of row i of Y is a_i · Σ_j b_j, and the sum of column j is b_j · Σ_i a_i (K.-H. Huang and
J. A. Abraham, Algorithm-Based Fault Tolerance for Matrix Operations, IEEE Trans. Computers C-33, 1984). What a fault
adds to an entry of Y shows in both; rounding is smaller, in a way that can be computed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from homegrown.ops.registry import Implementation, wrapping
from homegrown.parallel.collectives import gather, gather_objects
from homegrown.parallel.groups import Group
from homegrown.train.corruption.fault import Suspicion, accuse

CHECK = "checksums of matrix products"
MARGIN = 8.0
"""Rounding errors are taken for independent; a sum of them that is this many standard deviations away is none."""

# Shape suffixes: Y [N, M] = A [N, K] B [M, K]ᵀ; with groups, rows R in E groups.


class Excess(NamedTuple):
    """A product and how far its checksums are off.

    Attributes:
        name: of the product.
        ratio: float32 scalar tensor, the largest distance in units of what rounding may do; above one is a fault.
    """

    name: str
    ratio: Tensor


class Products:
    """Checks the products of `ops.linear` and of the experts, forward and backward, in blocks of a run.

    Nothing that is computed changes: factors and results pass through checks that look at them. The host waits for the
    device once, in `judge`.

    Args:
        weights: names of parameters by the address of their memory, for messages.
        world: all ranks.
    """

    def __init__(self, weights: Mapping[int, str], world: Group) -> None:
        self._weights, self._world = weights, world
        self.found: list[Excess] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Products within the block are checked."""
        wrappers = {"linear": self._linear, "grouped_product": self._product, "grouped_outer": self._outer}
        with wrapping("checked", **wrappers):
            yield

    def judge(self, step: int) -> None:
        """Look at what was found since the last call. Collective.

        Raises:
            CorruptionError: on all ranks, if a product of any of them is wrong.
        """
        found, self.found = self.found, []
        wrong = torch.stack([excess.ratio for excess in found]).gt(1).nonzero().flatten().tolist() if found else []
        if not int(gather(torch.tensor([len(wrong)]), self._world).sum()):
            return
        first = found[wrong[0]] if wrong else None
        said = f"{float(first.ratio):.3g}" if first else ""
        suspects = {
            rank: Suspicion(name, f"has checksums that are off by {ratio} times what rounding may do")
            for rank, (name, ratio) in enumerate(gather_objects((first.name if first else "", said), self._world))
            if name
        }
        accuse(step, CHECK, suspects, self._world)

    def note(self, kind: str, weight: Tensor, ratio: Tensor) -> None:
        """Add a finding about a product in which a weight takes part."""
        name = self._weights.get(weight.untyped_storage().data_ptr(), f"a matrix of {list(weight.shape)}")
        self.found.append(Excess(f"{kind} of {name}", ratio))

    def _linear(self, implementation: Implementation) -> Implementation:
        def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
            call = _Call(self, weight)
            if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
                out = implementation(*_Factors.apply(x, weight, call), bias)
                call.forward(x, out, bias)
                result: Tensor = _Result.apply(out, call)
                return result
            out = implementation(x, weight, bias)
            call.forward(x, out, bias)
            return out

        return linear

    def _product(self, implementation: Implementation) -> Implementation:
        def product(x: Tensor, weight: Tensor, ends: Tensor, sizes: Any = None) -> Tensor:
            out: Tensor = implementation(x, weight, ends, sizes)
            self.note("grouped product", weight, product_excess(out, x, weight, ends))
            return out

        return product

    def _outer(self, implementation: Implementation) -> Implementation:
        def outer(a: Tensor, b: Tensor, ends: Tensor, sizes: Any = None) -> Tensor:
            out: Tensor = implementation(a, b, ends, sizes)
            self.note("gradient", out, outer_excess(out, a, b, ends))
            return out

        return outer


class _Call:
    """One call of `ops.linear`; the gradient of its result waits here for those of its factors."""

    def __init__(self, products: Products, weight: Tensor) -> None:
        self._products, self._weight = products, weight
        self.gradient: Tensor | None = None

    def forward(self, x: Tensor, out: Tensor, bias: Tensor | None) -> None:
        with torch.no_grad():
            plain = out if bias is None else out - bias
            self._note("product", plain.flatten(0, -2), x.flatten(0, -2), self._weight)

    def backward(self, x: Tensor, grad_x: Tensor | None, grad_weight: Tensor | None) -> None:
        if self.gradient is None:
            return
        x_NK, grad_NM = x.flatten(0, -2), self.gradient.flatten(0, -2)
        if grad_x is not None:
            self._note("gradient of the input", grad_x.flatten(0, -2), grad_NM, self._weight.T)
        if grad_weight is not None:
            self._note("gradient", grad_weight, grad_NM.T, x_NK.T)
        self.gradient = None

    def _note(self, kind: str, y: Tensor, a: Tensor, b: Tensor) -> None:
        self._products.note(kind, self._weight, matrix_excess(y, a, b))


class _Factors(torch.autograd.Function):
    """The factors as they are; backward, their gradients are looked at."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, call: _Call) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x)
        ctx.call = call
        ctx.set_materialize_grads(False)
        return x.view_as(x), weight.view_as(weight)

    @staticmethod
    def backward(
        ctx: Any, grad_x: Tensor | None, grad_weight: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, None]:
        ctx.call.backward(ctx.saved_tensors[0], grad_x, grad_weight)
        return grad_x, grad_weight, None


class _Result(torch.autograd.Function):
    """The result as it is; backward, its gradient is put aside for the check of what follows from it."""

    @staticmethod
    def forward(ctx: Any, out: Tensor, call: _Call) -> Tensor:
        ctx.call = call
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        ctx.call.gradient = grad
        return grad, None


# Checksums


def matrix_excess(y_NM: Tensor, a_NK: Tensor, b_MK: Tensor) -> Tensor:
    """How far the checksums of Y = A Bᵀ are off, in units of what rounding may do; float32 scalar tensor."""
    if not y_NM.numel() or not a_NK.numel():
        return torch.zeros((), device=y_NM.device)
    unit, length = y_NM.dtype, a_NK.shape[1]
    y, a, b = (_wide(tensor) for tensor in (y_NM, a_NK, b_MK))
    rows = _ratio(y.sum(1), a @ b.sum(0), _rounding(unit, length, y.norm(dim=1), a.norm(dim=1) * b.norm(), y.shape[1]))
    columns = _ratio(
        y.sum(0), b @ a.sum(0), _rounding(unit, length, y.norm(dim=0), b.norm(dim=1) * a.norm(), y.shape[0])
    )
    return torch.maximum(rows, columns)


def product_excess(y_RB: Tensor, x_RA: Tensor, w_EBA: Tensor, ends_E: Tensor) -> Tensor:
    """The same for rows of group e times w[e]ᵀ."""
    unit, length, most = y_RB.dtype, x_RA.shape[1], max(y_RB.shape)
    y, x, w = (_wide(tensor) for tensor in (y_RB, x_RA, w_EBA))
    group_R = _groups(ends_E, len(y))
    size_E = w.flatten(1).norm(dim=1)
    scale_R = x.norm(dim=1) * size_E[group_R]
    rows = _ratio(y.sum(1), (x * w.sum(1)[group_R]).sum(1), _rounding(unit, length, y.norm(dim=1), scale_R, most))
    scale_EB = w.norm(dim=2) * _by_group(x.square().sum(1), group_R, len(w)).sqrt()[:, None]
    norm_EB = _by_group(y.square(), group_R, len(w)).sqrt()
    expected_EB = (w @ _by_group(x, group_R, len(w))[:, :, None])[:, :, 0]
    columns = _ratio(_by_group(y, group_R, len(w)), expected_EB, _rounding(unit, length, norm_EB, scale_EB, most))
    return torch.maximum(rows, columns)


def outer_excess(y_EAB: Tensor, a_RA: Tensor, b_RB: Tensor, ends_E: Tensor) -> Tensor:
    """The same for the rows of group e of a, transposed, times its rows of b."""
    unit, groups, most = y_EAB.dtype, len(y_EAB), max(y_EAB.shape[1:])
    length = a_RA.shape[0]
    y, a, b = (_wide(tensor) for tensor in (y_EAB, a_RA, b_RB))
    group_R = _groups(ends_E, len(a))
    a_EA, b_EB = (_by_group(tensor.square(), group_R, groups).sqrt() for tensor in (a, b))
    scale_EA, scale_EB = a_EA * b_EB.norm(dim=1, keepdim=True), b_EB * a_EA.norm(dim=1, keepdim=True)
    rows = _by_group(a * b.sum(1, keepdim=True), group_R, groups)
    columns = _by_group(b * a.sum(1, keepdim=True), group_R, groups)
    return torch.maximum(
        _ratio(y.sum(2), rows, _rounding(unit, length, y.norm(dim=2), scale_EA, most)),
        _ratio(y.sum(1), columns, _rounding(unit, length, y.norm(dim=1), scale_EB, most)),
    )


def _rounding(dtype: torch.dtype, length: int, norm: Tensor, scale: Tensor, addends: int) -> Tensor:
    """What rounding may do to a checksum.

    Each entry is rounded once to the result's dtype, and is a sum of `length` products in float32 or wider; the
    checksums, on both sides, are sums of up to `addends` entries of such a size.

    Args:
        dtype: of the result.
        length: K.
        norm: Euclidean, of the entries added.
        scale: product of the norms of the factors that they come from, no less than `norm`.
        addends: number of entries.
    """
    fine = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    return MARGIN * (torch.finfo(dtype).eps * norm + fine * math.sqrt(length + addends) * scale)


def _ratio(got: Tensor, expected: Tensor, allowed: Tensor) -> Tensor:
    """Largest |got − expected| / allowed; infinite where something is not finite that should be."""
    distance = (got - expected).abs()
    off = torch.where(distance == 0, 0.0, distance / allowed)
    off = torch.where(expected.isfinite() & allowed.isfinite(), off, 0.0)
    wrong = expected.isfinite() & ~got.isfinite()
    return torch.where(wrong, torch.inf, off).amax().to(torch.float32)


def _groups(ends_E: Tensor, rows: int) -> Tensor:
    """Number of the group of each row, int64 [R]."""
    return torch.searchsorted(ends_E, torch.arange(rows, dtype=ends_E.dtype, device=ends_E.device), right=True)


def _by_group(values: Tensor, group_R: Tensor, groups: int) -> Tensor:
    """Σ over each group's rows: [R, ...] -> [E, ...]."""
    return values.new_zeros(groups, *values.shape[1:]).index_add_(0, group_R, values)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
