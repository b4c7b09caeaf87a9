"""Rows of a pass as if alone: to the last bit, not up to rounding."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from homegrown import ops
from homegrown.ops.rows import order_kept

CPU = torch.device("cpu")
DTYPES = [torch.float64, torch.float32, torch.bfloat16]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """On matrices this small threads only wait for each other, and on a busy machine for long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rows_alone(run: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    count = tensors[0].shape[-2]
    return torch.cat([run(*(ops.row(tensor, number) for tensor in tensors)) for number in range(count)], dim=-2)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [12, 20, 48, 97, 192])
@pytest.mark.parametrize("count", [2, 3, 4, 7])
def test_every_row_is_what_it_would_be_alone(count: int, width: int, dtype: torch.dtype) -> None:
    """Widths at which vectorised loops have ends, and at which they have none."""
    generator = torch.Generator().manual_seed(width)

    def values(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    x, gate, up = values(1, count, width), values(1, count, width), values(1, count, width)
    weight, bias, scale = values(width + 5, width), values(width + 5), values(width)
    index = torch.stack([torch.randperm(6, generator=generator)[:3] for _ in range(count)])
    gates = torch.rand(count, 3, generator=generator).to(dtype)
    w_in, w_out = values(4, 2, 24, width), values(4, width, 24)
    alone = [
        rows_alone(lambda x: ops.linear(x, weight), x),
        rows_alone(lambda x: ops.linear(x, weight, bias), x),
        rows_alone(lambda x: ops.rms_norm(x, scale, 1e-5), x),
        rows_alone(ops.swiglu, gate, up),
        rows_alone(lambda *args: ops.experts(*args, w_in, w_out), x[0], index, gates),
    ]
    with ops.row_by_row():
        together = [
            ops.linear(x, weight),
            ops.linear(x, weight, bias),
            ops.rms_norm(x, scale, 1e-5),
            ops.swiglu(gate, up),
            ops.experts(x[0], index, gates, w_in, w_out),
        ]
    for ours, expected in zip(together, alone, strict=True):
        assert torch.equal(ours, expected)


def in_order(x: Tensor, weight: Tensor) -> Tensor:
    """Adds up term by term, whatever the number of rows."""
    total = torch.zeros(x.shape[0], weight.shape[0], dtype=x.dtype)
    for place in range(x.shape[1]):
        total = total + x[:, place, None] * weight[:, place]
    return total


def backwards_for_many(x: Tensor, weight: Tensor) -> Tensor:
    """The same, but several rows are added up from the other end."""
    return in_order(x, weight) if len(x) == 1 else in_order(x.flip(1), weight.flip(1))


def halves_for_many(x: Tensor, weight: Tensor) -> Tensor:
    """The same, but several rows are added up in two halves."""
    half = x.shape[1] // 2
    if len(x) == 1:
        return in_order(x, weight)
    return in_order(x[:, :half], weight[:, :half]) + in_order(x[:, half:], weight[:, half:])


def last_row_otherwise(x: Tensor, weight: Tensor) -> Tensor:
    """The same, but the last of several rows is added up from the other end."""
    out = in_order(x, weight)
    if len(x) > 1:
        out[-1:] = in_order(x[-1:].flip(1), weight.flip(1))
    return out


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 5, 8), (4, 7, 33), (3, 300, 64)])
def test_the_order_of_additions_is_found_out(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    """Kernels that differ in nothing else, which random numbers would show by their last bits at most."""
    assert order_kept(in_order, *shape, dtype, CPU, 1)
    for other in (backwards_for_many, halves_for_many, last_row_otherwise):
        assert not order_kept(other, *shape, dtype, CPU, 1), other.__name__


def wide_sum(x: Tensor, weight: Tensor) -> Tensor:
    """A narrow product added up in float32, from the other end for several rows: the narrow result hides nearly all."""
    wide = (x.float(), weight.float())
    return (in_order(*wide) if len(x) == 1 else backwards_for_many(*wide)).to(x.dtype)


def test_the_order_is_found_out_behind_a_narrow_result() -> None:
    assert not order_kept(wide_sum, 4, 96, 64, torch.bfloat16, CPU, 1)
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, 64, generator=generator).bfloat16() for n in (4, 96))
    assert torch.equal(wide_sum(x, weight), rows_alone(lambda x: wide_sum(x, weight), x)), "random numbers show nothing"


def test_implementations_are_wrapped_within_the_block_only() -> None:
    before = ops.table()
    with pytest.raises(ZeroDivisionError), ops.row_by_row():
        assert ops.table()["experts"] == f"{before['experts']} row by row"
        raise ZeroDivisionError
    assert ops.table() == before
    assert not any("row by row" in name for op in ops.OPS.values() for name in op.implementations)


def test_linear_is_a_product_with_the_weight() -> None:
    x, weight, bias = torch.randn(2, 3, 5), torch.randn(4, 5), torch.randn(4)
    torch.testing.assert_close(ops.linear(x, weight, bias), torch.einsum("bsi,oi->bso", x, weight) + bias)
    assert torch.equal(ops.linear(x, weight), F.linear(x, weight))
