"""Weights in eight bits: how far rounding goes, and that every product is the product of what was rounded."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from homegrown import ops
from homegrown.ops import Int8, int8
from homegrown.ops.rows import order_kept

from .compare import TOLERANCE, implementations, relative

CPU = torch.device("cpu")
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
BOUNDS = TOLERANCE | {torch.bfloat16: 2e-2, torch.float16: 3e-3}
"""Products: a rounding or two of the result, beside the order of additions."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def wide(weight: Int8) -> Tensor:
    """What eight-bit weights stand for, in float64, by definition."""
    return weight.values.double() * weight.scale.double()[..., None]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_weight_is_off_by_half_a_step_at_most(dtype: torch.dtype) -> None:
    weight = torch.randn(3, 40, 65, dtype=torch.float64) * torch.logspace(-12, 3, 40, dtype=torch.float64)[:, None]
    weight[0, 5], weight[1, 7] = 0, 1e-42
    weight[2, 3, 0] = 1e30  # one large weight makes its row coarse, and no other
    rounded = ops.quantise(weight.float(), dtype)
    step = rounded.scale.double()
    most = weight.float().double().abs().amax(-1)
    assert rounded.values.dtype == torch.int8
    assert int(rounded.values.min()) >= -127
    assert ((wide(rounded) - weight.float().double()).abs() <= step[..., None] * 0.5000001).all()
    assert (step <= most / 127 * (1 + 2**-8) + 2e-38).all()
    assert torch.equal(ops.dequantise(rounded).double(), wide(rounded).to(ops.dequantise(rounded).dtype).double())


def test_rounding_is_symmetric_and_keeps_what_is_rounded() -> None:
    weight = torch.randn(8, 32).bfloat16()
    rounded, opposite = ops.quantise(weight, torch.bfloat16), ops.quantise(-weight, torch.bfloat16)
    assert torch.equal(rounded.values, -opposite.values)
    again = ops.quantise(ops.dequantise(rounded), torch.bfloat16)
    assert torch.equal(again.values, rounded.values)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_no_scale_for_what_is_not_finite(bad: float) -> None:
    weight = torch.randn(4, 8)
    weight[2, 3] = bad
    with pytest.raises(ValueError, match="not a finite number"):
        ops.quantise(weight, torch.float32)


SHAPES = [(16, 32), (48, 80), (33, 97), (5, 3), (1, 16), (300, 64)]
"""Some that the packed product takes and some that it must never see."""


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("outputs, inputs", SHAPES)
def test_products(outputs: int, inputs: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "TILE", 4096)  # several tiles even here
    weight = ops.quantise(torch.randn(outputs, inputs), dtype)
    for shape in ((1,), (2, 3), (8,), (9,), (1, 21), (0,)):
        x = torch.randn(*shape, inputs).to(dtype)
        wanted = torch.einsum("...i,oi->...o", x.double(), wide(weight))
        for key in ["reference", *implementations("int8_linear")]:
            with ops.using(int8_linear=key):
                got = ops.int8_linear(x, *weight)
            assert got.dtype == dtype
            if x.numel():
                assert relative(got, wanted) < BOUNDS[dtype], (key, shape)
            else:
                assert got.shape == wanted.shape


def test_products_of_rows_that_lie_anywhere_in_memory() -> None:
    """The packed product would end the process on an address or a stride that does not suit it."""
    weight = ops.quantise(torch.randn(48, 64), torch.bfloat16)
    flat = torch.randn(20 * 64).bfloat16()
    for offset in (1, 3, 8, 31):
        x = flat[offset : offset + 4 * 64].view(4, 64)
        assert torch.equal(ops.int8_linear(x, *weight), ops.int8_linear(x.clone(), *weight))
    spaced = flat[: 16 * 64].view(8, 128)[:, 5:69]
    assert torch.equal(ops.int8_linear(spaced, *weight), ops.int8_linear(spaced.contiguous(), *weight))
    shifted = torch.zeros(48 * 64 + 1, dtype=torch.int8)[1:].view(48, 64).copy_(weight.values)
    assert not int8.takes_packed(spaced, shifted, weight.scale)
    assert relative(ops.int8_linear(spaced, shifted, weight.scale), ops.int8_linear(spaced, *weight)) < 2e-2


def test_the_error_of_a_product_is_that_of_its_weights() -> None:
    """Against the product with the weights as they were: at most half a step for each term."""
    weight, x = torch.randn(64, 256, dtype=torch.float64), torch.randn(10, 256, dtype=torch.float64)
    rounded = ops.quantise(weight, torch.float64)
    error = (ops.int8_linear(x, *rounded) - x @ weight.T).abs()
    assert (error <= x.abs().sum(-1, keepdim=True) * rounded.scale / 2 + 1e-12).all()
    assert relative(ops.int8_linear(x, *rounded), x @ weight.T) < 0.02


def test_without_a_packed_product_weights_are_widened_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*args: Tensor) -> Tensor:
        raise NotImplementedError("Could not run 'aten::_weight_int8pack_mm'")

    weight, x = ops.quantise(torch.randn(48, 64), torch.bfloat16), torch.randn(3, 64).bfloat16()
    before = ops.int8_linear(x, *weight)
    int8.packed_works.cache_clear()
    monkeypatch.setattr(int8, "_packed", none)
    try:
        assert not int8.packed_works()
        assert "no working packed product" in ops.int8_product_of(torch.bfloat16, CPU)
        assert relative(ops.int8_linear(x, *weight), before) < 2e-2
    finally:
        int8.packed_works.cache_clear()


def test_a_packed_product_that_is_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    int8.packed_works.cache_clear()
    monkeypatch.setattr(int8, "_packed", lambda x, values, scale: x.new_zeros(*x.shape[:-1], len(values)))
    try:
        assert not int8.packed_works()
    finally:
        int8.packed_works.cache_clear()


def test_what_multiplies_is_told() -> None:
    assert "bfloat16 on CPUs only" in ops.int8_product_of(torch.float32, CPU)
    assert "widened" in ops.int8_product_of(torch.bfloat16, CPU)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_of_a_table(dtype: torch.dtype) -> None:
    table, ids = ops.quantise(torch.randn(50, 12), dtype), torch.randint(50, (2, 7, 3))
    got = ops.int8_rows(table, ids, dtype)
    assert got.dtype == dtype
    assert relative(got, wide(table)[ids]) < BOUNDS[dtype]


TOKENS, CHOICES, EXPERTS, ZERO, HIDDEN, WIDTH = 23, 3, 5, 3, 32, 16


@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
@pytest.mark.parametrize("tokens", [0, 1, TOKENS])
@pytest.mark.parametrize("choosable", [(0, EXPERTS + ZERO), (0, EXPERTS), (EXPERTS, EXPERTS + ZERO), (1, EXPERTS - 1)])
def test_experts(choosable: tuple[int, int], tokens: int, dtype: torch.dtype) -> None:
    low, high = choosable
    index = torch.rand(tokens, high - low).topk(CHOICES, dim=-1).indices + low
    x, gate = torch.randn(tokens, HIDDEN).to(dtype), torch.rand(tokens, CHOICES)
    w_in, w_out = (
        ops.quantise(torch.randn(shape), dtype) for shape in ((EXPERTS, 2, WIDTH, HIDDEN), (EXPERTS, HIDDEN, WIDTH))
    )
    with ops.using(experts="reference"):
        wanted = ops.experts(x.double(), index, gate.double(), wide(w_in), wide(w_out))
    for key in ["reference", *implementations("int8_experts")]:
        with ops.using(int8_experts=key):
            got = ops.int8_experts(x, index, gate, w_in, w_out)
        assert got.dtype == dtype
        assert got.shape == x.shape
        if tokens and wanted.abs().max() > 0:
            assert relative(got, wanted) < TOLERANCE[dtype], key
        else:
            assert not got.any()


@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
@pytest.mark.parametrize("inputs", [20, 64, 97, 192])
@pytest.mark.parametrize("count", [2, 5, 8, 9, 20])
def test_every_row_is_what_it_would_be_alone(count: int, inputs: int, dtype: torch.dtype) -> None:
    x, outer = torch.randn(1, count, inputs).to(dtype), torch.randn(count, HIDDEN).to(dtype)
    weight = ops.quantise(torch.randn(inputs + 5, inputs), dtype)
    index = torch.rand(count, EXPERTS + ZERO).topk(CHOICES, dim=-1).indices
    gate = torch.rand(count, CHOICES)
    w_in, w_out = (
        ops.quantise(torch.randn(shape), dtype) for shape in ((EXPERTS, 2, WIDTH, HIDDEN), (EXPERTS, HIDDEN, WIDTH))
    )
    rows = range(count)
    products = torch.cat([ops.int8_linear(ops.row(x, number), *weight) for number in rows], dim=1)
    one_by_one = [
        ops.int8_experts(*(ops.row(item, number) for item in (outer, index, gate)), w_in, w_out) for number in rows
    ]
    with ops.row_by_row():
        assert torch.equal(ops.int8_linear(x, *weight), products)
        assert torch.equal(ops.int8_experts(outer, index, gate, w_in, w_out), torch.cat(one_by_one))


def in_order(x: Tensor, values: Tensor, scale: Tensor) -> Tensor:
    """Adds up term by term in float32, whatever the number of rows."""
    total = torch.zeros(x.shape[0], values.shape[0])
    for place in range(x.shape[1]):
        total = total + x[:, place, None].float() * values[:, place].float()
    return (total * scale).to(x.dtype)


def backwards_for_many(x: Tensor, values: Tensor, scale: Tensor) -> Tensor:
    """The same, but several rows are added up from the other end."""
    return in_order(x, values, scale) if len(x) == 1 else in_order(x.flip(1), values.flip(1), scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(2, 5, 8), (4, 7, 33), (3, 300, 64)])
def test_the_order_of_additions_is_found_out(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    assert order_kept(in_order, *shape, dtype, CPU, 1, int8=True)
    assert not order_kept(backwards_for_many, *shape, dtype, CPU, 1, int8=True)


@pytest.mark.skipif(not int8.packed_works(), reason="this PyTorch has no packed product for this processor")
def test_few_rows_are_multiplied_together_row_by_row() -> None:
    """Invariance costs the packed product nothing: its rows do not know of each other."""
    packed = ops.OPS["int8_linear"].implementations["by_rows"]
    assert order_kept(packed, int8.PACKED_ROWS, 96, 64, torch.bfloat16, CPU, 1, int8=True)
