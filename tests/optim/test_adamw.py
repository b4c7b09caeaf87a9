from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from homegrown.optim import adamw as adamw_module
from homegrown.optim import slots as slots_module
from homegrown.optim.adamw import AdamSettings, AdamW
from homegrown.optim.slots import Update, WeightSlot

ADAM = AdamSettings(beta1=0.9, beta2=0.95, eps=1e-16)
LR, DECAY = 0.01, 0.1
BOTH = pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])


def parameters(seed: int = 0, dtype=torch.float32) -> dict[str, nn.Parameter]:
    torch.manual_seed(seed)
    shapes = {"a": (7, 5), "b": (11,), "c": (2, 3, 4)}
    return {name: nn.Parameter(torch.randn(shape).to(dtype)) for name, shape in shapes.items()}


def adamw(weights, fused: bool, row_lazy: bool = False) -> AdamW:
    return AdamW([WeightSlot(name, weight) for name, weight in weights.items()], ADAM, fused=fused, row_lazy=row_lazy)


def step(optimizer: AdamW, gradients, lr=LR, decay=DECAY, grad_scale=None, keep=None) -> None:
    for slot in optimizer.slots:
        gradient = gradients.get(slot.name)
        slot.weight.grad = None if gradient is None else gradient.clone()
    with torch.no_grad():
        optimizer.step(Update(lr, decay, grad_scale, keep))


def random_gradients(weights) -> dict[str, torch.Tensor]:
    return {name: torch.randn_like(weight) for name, weight in weights.items()}


def bits(tensor: torch.Tensor) -> list[int]:
    return tensor.detach().float().view(torch.int32).flatten().tolist()


@BOTH
def test_equals_torchs_adamw_in_float64(fused):
    weights = parameters()
    exact = {name: nn.Parameter(weight.detach().double()) for name, weight in weights.items()}
    theirs = torch.optim.AdamW(
        exact.values(), lr=LR, betas=(0.9, 0.95), eps=1e-16, weight_decay=DECAY, foreach=False, fused=False
    )
    mine = adamw(weights, fused)
    for _ in range(20):
        gradients = random_gradients(weights)
        step(mine, gradients)
        for name, weight in exact.items():
            weight.grad = gradients[name].double()
        theirs.step()
    for slot in mine.slots:
        # 20 updates of size about 0.01 in float32, each exact to some 1e-7 of the weight
        torch.testing.assert_close(slot.weight.detach().double(), exact[slot.name].detach(), atol=2e-6, rtol=2e-6)
        state = theirs.state[exact[slot.name]]
        torch.testing.assert_close(mine.state(slot)["exp_avg"].double(), state["exp_avg"], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(mine.state(slot)["exp_avg_sq"].double(), state["exp_avg_sq"], atol=1e-6, rtol=1e-5)
        assert mine.state(slot)["step"].item() == 20


@BOTH
def test_grad_scale_multiplies_the_gradient(fused):
    plain, scaled = parameters(1), parameters(1)
    a, b = adamw(plain, fused), adamw(scaled, fused)
    for _ in range(3):
        gradients = random_gradients(plain)
        step(a, {name: 0.25 * gradient for name, gradient in gradients.items()})
        step(b, gradients, grad_scale=torch.tensor(0.25))
    for name in plain:
        assert torch.equal(plain[name], scaled[name])


@BOTH
@pytest.mark.parametrize("row_lazy", [False, True])
def test_a_step_not_kept_changes_no_bit(fused, row_lazy):
    weights = {"a": nn.Parameter(torch.randn(7, 5))}
    with torch.no_grad():
        weights["a"][0] = -0.0
    optimizer = adamw(weights, fused, row_lazy)
    step(optimizer, random_gradients(weights))
    with torch.no_grad():
        weights["a"][1] = -0.0
    before = {key: bits(tensor) for slot in optimizer.slots for key, tensor in optimizer.state(slot).items()}
    weight = bits(weights["a"])
    gradients = random_gradients(weights)
    gradients["a"][2, 2], gradients["a"][3, 3] = float("nan"), float("inf")
    step(optimizer, gradients, grad_scale=torch.tensor(float("nan")), keep=torch.tensor(False))
    assert bits(weights["a"]) == weight
    assert before == {key: bits(tensor) for slot in optimizer.slots for key, tensor in optimizer.state(slot).items()}


@BOTH
def test_a_step_kept_is_a_step(fused):
    plain, kept = parameters(2), parameters(2)
    a, b = adamw(plain, fused), adamw(kept, fused)
    for _ in range(2):
        gradients = random_gradients(plain)
        step(a, gradients)
        step(b, gradients, keep=torch.tensor(True))
    for slot, other in zip(a.slots, b.slots, strict=True):
        assert torch.equal(slot.weight, other.weight)
        assert torch.equal(a.state(slot)["step"], b.state(other)["step"])


@BOTH
def test_parameters_without_gradient_are_left_alone_and_count_their_own_steps(fused):
    weights = parameters(3)
    optimizer = adamw(weights, fused)
    before = bits(weights["b"])
    gradients = random_gradients(weights)
    step(optimizer, {"a": gradients["a"]})
    assert bits(weights["b"]) == before
    step(optimizer, gradients)
    counts = {slot.name: optimizer.state(slot)["step"].item() for slot in optimizer.slots}
    assert counts == {"a": 2, "b": 1, "c": 1}
    # The first update of Adam has the size of the rate, whatever the gradient: it would not with the shared count
    moved = weights["b"].detach() - torch.tensor(before, dtype=torch.int32).view(torch.float32) * (1 - LR * DECAY)
    torch.testing.assert_close(moved, -LR * gradients["b"].sign(), atol=1e-6, rtol=0)


@BOTH
def test_gradient_of_another_memory_layout(fused):
    plain, transposed = nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(3, 2))
    gradient = torch.arange(6.0).view(2, 3).T
    for weight, grad in ((plain, gradient.contiguous()), (transposed, gradient)):
        optimizer = adamw({"w": weight}, fused)
        weight.grad = grad
        with torch.no_grad():
            optimizer.step(Update(LR, 0.0))
        torch.testing.assert_close(optimizer.state(optimizer.slots[0])["exp_avg"], 0.1 * gradient)
    assert torch.equal(plain, transposed)


@BOTH
def test_bfloat16_weights_are_their_rounded_masters(fused):
    weights = parameters(4, torch.bfloat16)
    exact = {name: nn.Parameter(weight.detach().float()) for name, weight in weights.items()}
    a, b = adamw(weights, fused), adamw(exact, fused)
    for _ in range(5):
        gradients = random_gradients(weights)
        step(a, gradients, lr=1e-4)
        step(b, {name: gradient.float() for name, gradient in gradients.items()}, lr=1e-4)
    for slot in a.slots:
        assert torch.equal(slot.weight, slot.master.bfloat16())
        assert torch.equal(slot.master, exact[slot.name])


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_small_chunks_change_nothing_but_rounding(monkeypatch, fused, dtype):
    whole, cut = parameters(5, dtype), parameters(5, dtype)
    a, b = adamw(whole, fused), adamw(cut, fused)
    for keep in (True, False, True):
        gradients = random_gradients(whole)
        step(a, gradients, keep=torch.tensor(keep))
        with monkeypatch.context() as patch:
            for module in (slots_module, adamw_module):
                patch.setattr(module, "CHUNK_NUMBERS", 12)  # two rows of five at a time
            step(b, gradients, keep=torch.tensor(keep))
    for slot, other in zip(a.slots, b.slots, strict=True):
        torch.testing.assert_close(slot.master, other.master, atol=1e-7, rtol=1e-6)
        for key, tensor in a.state(slot).items():
            torch.testing.assert_close(tensor, b.state(other)[key], atol=1e-7, rtol=1e-6)
        assert b.state(other)["step"].item() == 2
        assert torch.equal(other.weight, other.master.to(dtype))


def sparse(rows: list[int], values: torch.Tensor, height: int) -> torch.Tensor:
    return torch.sparse_coo_tensor(
        torch.tensor([rows]), values, (height, values.shape[1]), check_invariants=True, is_coalesced=False
    )


def test_row_lazy_equals_torchs_sparse_adam():
    torch.manual_seed(6)
    weight = nn.Parameter(torch.randn(10, 3))
    exact = nn.Parameter(weight.detach().double())
    theirs = torch.optim.SparseAdam([exact], lr=LR, betas=(0.9, 0.95), eps=1e-16)
    mine = adamw({"w": weight}, fused=True, row_lazy=True)
    for rows in ([1, 4, 4, 9], [4, 0], [1, 1, 1]):
        values = torch.randn(len(rows), 3)
        step(mine, {"w": sparse(rows, values, 10)}, decay=0.0)
        exact.grad = sparse(rows, values.double(), 10)
        theirs.step()
    torch.testing.assert_close(weight.detach().double(), exact.detach(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_row_lazy_is_the_same_for_sparse_and_dense_gradients(dtype):
    torch.manual_seed(7)
    a, b = (nn.Parameter(torch.randn(10, 3, generator=torch.Generator().manual_seed(1)).to(dtype)) for _ in range(2))
    from_sparse, from_dense = (adamw({"w": weight}, fused=True, row_lazy=True) for weight in (a, b))
    untouched = bits(a[2])
    for rows in ([5, 1, 8], [1, 3], [0, 5]):
        gradient = sparse(rows, torch.randn(len(rows), 3).to(dtype), 10)
        step(from_sparse, {"w": gradient}, grad_scale=torch.tensor(0.5))
        step(from_dense, {"w": gradient.to_dense()}, grad_scale=torch.tensor(0.5))
    assert torch.equal(a, b)
    assert bits(a[2]) == untouched
    for key, tensor in from_sparse.state(from_sparse.slots[0]).items():
        assert torch.equal(tensor, from_dense.state(from_dense.slots[0])[key]), key


def test_sparse_gradient_not_kept_changes_no_bit():
    weight = nn.Parameter(torch.randn(10, 3))
    optimizer = adamw({"w": weight}, fused=True, row_lazy=True)
    step(optimizer, {"w": sparse([1, 2], torch.randn(2, 3), 10)})
    before = [bits(weight), *(bits(tensor) for tensor in optimizer.state(optimizer.slots[0]).values())]
    step(optimizer, {"w": sparse([2, 3], torch.full((2, 3), float("nan")), 10)}, keep=torch.tensor(False))
    assert [bits(weight), *(bits(tensor) for tensor in optimizer.state(optimizer.slots[0]).values())] == before


def test_duplicate_rows_are_summed_in_a_fixed_order():
    ids = torch.randint(0, 50, (4000,), generator=torch.Generator().manual_seed(8))
    values = torch.randn(4000, 16, generator=torch.Generator().manual_seed(9)) * 10.0 ** torch.arange(-3.0, 5.0).repeat(
        500
    ).unsqueeze(1)
    results = set()
    threads = torch.get_num_threads()
    for count in (1, 2, 2, 2):
        torch.set_num_threads(count)
        weight = nn.Parameter(torch.zeros(50, 16))
        F.embedding(ids, weight, sparse=True).backward(values)
        optimizer = adamw({"w": weight}, fused=True, row_lazy=True)
        with torch.no_grad():
            optimizer.step(Update(LR, 0.0))
        results.add(tuple(bits(optimizer.state(optimizer.slots[0])["exp_avg"])))
    torch.set_num_threads(threads)
    assert len(results) == 1


@BOTH
def test_sparse_gradient_needs_row_lazy(fused):
    optimizer = adamw({"w": nn.Parameter(torch.randn(4, 3))}, fused)
    with pytest.raises(ValueError, match=r"parameter 'w': a sparse gradient needs a row-lazy group"):
        step(optimizer, {"w": sparse([1], torch.randn(1, 3), 4)})


@BOTH
def test_a_piece_gets_the_same_bits_in_any_company(fused):
    """The fused kernel rounds a tensor's last numbers unlike the others: pieces must not be joined or cut otherwise."""
    torch.manual_seed(10)
    start, borders = torch.randn(50, 7), (0, 1, 12, 13, 30, 50)
    whole = WeightSlot("w", nn.Parameter(start.clone()), borders)
    gradients = [torch.randn(50, 7) for _ in range(3)]
    for slots in ([whole], [WeightSlot("w", nn.Parameter(start[a:b].clone()), (a, b)) for a, b in pairwise(borders)]):
        optimizer = AdamW(slots, ADAM, fused=fused)
        for gradient in gradients:
            for slot in slots:
                slot.gradient = gradient[slot.borders[0] : slot.borders[-1]].clone()
            with torch.no_grad():
                optimizer.step(Update(LR, DECAY))
        for slot in slots:
            assert torch.equal(slot.weight, whole.weight[slot.borders[0] : slot.borders[-1]])
            assert optimizer.state(slot)["step"].tolist() == [3] * (len(slot.borders) - 1)
