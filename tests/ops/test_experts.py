import pytest
import torch

from homegrown import ops
from homegrown.ops.experts import sorted_experts

from .compare import TOLERANCE, check, run, worst

TOKENS, CHOICES, EXPERTS, ZERO, HIDDEN, WIDTH = 41, 3, 5, 3, 16, 8


def tensors():
    shapes = ((TOKENS, HIDDEN), (TOKENS, CHOICES), (EXPERTS, 2, WIDTH, HIDDEN), (EXPERTS, HIDDEN, WIDTH))
    return [torch.randn(shape) for shape in shapes]


def choices(experts: int) -> torch.Tensor:
    """Different experts for each token, of `experts` there are."""
    return torch.rand(TOKENS, experts).topk(CHOICES, dim=-1).indices


def call(index):
    return lambda x, gate, w_in, w_out: ops.experts(x, index, gate, w_in, w_out)


def mixed():
    return choices(EXPERTS + ZERO)


def all_real():
    return choices(EXPERTS)


def all_zero():
    return choices(ZERO) + EXPERTS


def idle_experts():
    """The first and the last routed expert are chosen by no token."""
    return choices(EXPERTS + ZERO - 2).add(1).apply_(lambda number: number + (number >= EXPERTS - 1))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("index", [mixed, all_real, all_zero, idle_experts])
def test_implementations(dtype, index):
    check("experts", call(index()), tensors(), dtype)


def test_an_odd_width_takes_no_grouped_product():
    x, gate, w_in, w_out = tensors()
    check("experts", call(mixed()), [x, gate, w_in[:, :, :7], w_out[..., :7]], torch.float32)


def test_the_sum_over_choices_has_one_order():
    """The same bits every time: nothing is added in an order that depends on timing."""
    index, inputs = mixed(), tensors()
    first = run(call(index), inputs, torch.float32)
    assert all(worst(run(call(index), inputs, torch.float32), first) == 0 for _ in range(3))


def test_the_spare_pair_leaves_no_trace():
    """Token 0 stands in for the pairs left out; neither its output nor its gradient may show it."""
    index = all_zero()
    index[1] = torch.arange(CHOICES)
    x, gate, w_in, w_out = (item.requires_grad_() for item in tensors())
    out = ops.experts(x, index, gate, w_in, w_out)
    out.sum().backward()
    others = torch.arange(TOKENS) != 1
    assert out[others].abs().max() == 0
    assert x.grad[others].abs().max() == 0
    assert gate.grad[others].abs().max() == 0
    assert w_in.grad[CHOICES:].abs().max() == 0


def test_no_token_at_all():
    """A process to which no token came; its weights learn nothing."""
    shapes = ((0, HIDDEN), (0, CHOICES), (EXPERTS, 2, WIDTH, HIDDEN), (EXPERTS, HIDDEN, WIDTH))
    x, gate, w_in, w_out = (torch.randn(shape).requires_grad_() for shape in shapes)
    out = ops.experts(x, torch.empty(0, CHOICES, dtype=torch.int64), gate, w_in, w_out)
    assert out.shape == x.shape
    out.sum().backward()
    assert w_in.grad.abs().max() == w_out.grad.abs().max() == 0


def test_known_sizes_need_no_numbers():
    """With the sizes that there are the result is the same; with any sizes a tensor without numbers has its shape."""
    index, inputs = mixed(), tensors()
    sizes = torch.bincount(index.flatten(), minlength=EXPERTS)[:EXPERTS].tolist()
    known = run(lambda x, gate, w_in, w_out: sorted_experts(x, index, gate, w_in, w_out, sizes), inputs, torch.float64)
    assert worst(known, run(call(index), inputs, torch.float64)) < 1e-14
    empty = [item.to("meta").requires_grad_() for item in inputs]
    out = sorted_experts(empty[0], index.to("meta"), *empty[1:], [3] * EXPERTS)
    out.sum().backward()
    assert [out.shape, *(item.grad.shape for item in empty)] == [inputs[0].shape, *(item.shape for item in inputs)]
