from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from homegrown.optim import muon as muon_module
from homegrown.optim import slots as slots_module
from homegrown.optim.muon import Muon
from homegrown.optim.newton_schulz import orthogonalize
from homegrown.optim.slots import Update, WeightSlot

SETTINGS = {"momentum": 0.95, "nesterov": True, "steps": 5, "dtype": torch.float32}


def reference_newton_schulz(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """One 2-D float64 matrix, straight from the formula."""
    x = matrix / matrix.norm()
    for _ in range(steps):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x


def reference_muon(weight, gradients, lr, decay, mu=0.95, nesterov=True):
    """Float64 Muon on one 2-D matrix; returns weight and momentum after all gradients."""
    momentum = torch.zeros_like(weight)
    for gradient in gradients:
        momentum = mu * momentum + (1 - mu) * gradient
        blend = (1 - mu) * gradient + mu * momentum if nesterov else momentum
        update = 0.2 * max(weight.shape) ** 0.5 * reference_newton_schulz(blend)
        weight = weight - lr * decay * weight - lr * update
    return weight, momentum


def parameters(seed: int, dtype=torch.float32) -> dict[str, nn.Parameter]:
    torch.manual_seed(seed)
    shapes = {"up": (24, 16), "down": (16, 24), "wide": (8, 40), "gate_up": (3, 2, 12, 16), "expert_down": (3, 16, 12)}
    return {name: nn.Parameter(torch.randn(shape).to(dtype)) for name, shape in shapes.items()}


def run(weights, gradients, lr=0.1, decay=0.1, grad_scale=None, keep=None, **changes) -> Muon:
    muon = Muon([WeightSlot(name, weight) for name, weight in weights.items()], **{**SETTINGS, **changes})
    with torch.no_grad():
        for gradient in gradients:
            for name, weight in weights.items():
                weight.grad = gradient[name].clone()
            muon.step(Update(lr, decay, grad_scale, keep))
    return muon


def random_gradients(weights, count: int) -> list[dict[str, torch.Tensor]]:
    return [{name: torch.randn_like(weight) for name, weight in weights.items()} for _ in range(count)]


@pytest.mark.parametrize("shape", [(16, 16), (8, 32), (32, 8), (5, 1), (3, 2, 12, 20), (4, 20, 12)])
def test_newton_schulz_equals_the_float64_formula_for_each_matrix(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    got = orthogonalize(matrices, 5, torch.float32)
    assert got.shape == matrices.shape and got.dtype == torch.float32
    for one, expected in zip(got.reshape(-1, *shape[-2:]), matrices.reshape(-1, *shape[-2:]).double(), strict=True):
        # float32 products over at most 32 terms, amplified by the slope 3.4 in each of five steps: 1e-7 * 500
        torch.testing.assert_close(one.double(), reference_newton_schulz(expected), atol=5e-5, rtol=0)


def test_newton_schulz_in_bfloat16_is_near_the_formula():
    matrices = torch.randn(4, 16, 32, generator=torch.Generator().manual_seed(2))
    got = orthogonalize(matrices, 5, torch.bfloat16)
    expected = torch.stack([reference_newton_schulz(one) for one in matrices.double()])
    # Eight bits of mantissa: entries are of size 1/sqrt(32), errors stay a few percent of the whole
    assert (got - expected).norm() / expected.norm() < 0.05


@given(st.integers(0, 10_000), st.integers(1, 24), st.integers(1, 24), st.floats(1e-15, 1e15))
@settings(max_examples=40, deadline=None)
def test_singular_values_land_in_the_known_band(seed, rows, cols, size):
    generator = torch.Generator().manual_seed(seed)
    rank = min(rows, cols)
    u, _ = torch.linalg.qr(torch.randn(rows, rank, generator=generator, dtype=torch.float64))
    v, _ = torch.linalg.qr(torch.randn(cols, rank, generator=generator, dtype=torch.float64))
    values = 0.05 + 0.95 * torch.rand(rank, generator=generator, dtype=torch.float64)
    matrix = (size * (u * values) @ v.T).float()
    core = u.T @ orthogonalize(matrix, 5, torch.float32).double() @ v
    # values >= 0.05 / sqrt(24) of the norm: five steps of the scalar quintic end in [0.68, 1.21]
    assert core.diagonal().min() > 0.65 and core.diagonal().max() < 1.25
    # The singular vectors stay: U diag V^T
    assert (core - core.diagonal().diag()).abs().max() < 1e-2


def test_zero_and_vanishing_matrices_stay_finite():
    assert torch.equal(orthogonalize(torch.zeros(2, 4, 6), 5, torch.float32), torch.zeros(2, 4, 6))
    assert orthogonalize(torch.full((4, 6), 1e-24), 5, torch.float32).isfinite().all()


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_steps_equal_the_float64_reference_for_each_stacked_matrix(nesterov, decay):
    weights = parameters(3)
    start = {name: weight.detach().double() for name, weight in weights.items()}
    gradients = random_gradients(weights, 4)
    muon = run(weights, gradients, decay=decay, nesterov=nesterov)
    for slot in muon.slots:
        size = start[slot.name].shape[-2:]
        for index, before in enumerate(start[slot.name].reshape(-1, *size)):
            own = [gradient[slot.name].double().reshape(-1, *size)[index] for gradient in gradients]
            weight, momentum = reference_muon(before, own, 0.1, decay, nesterov=nesterov)
            torch.testing.assert_close(
                slot.weight.detach().reshape(-1, *size)[index].double(), weight, atol=1e-4, rtol=0
            )
            kept = muon.state(slot)["momentum"].reshape(-1, *size)[index].double()
            torch.testing.assert_close(kept, momentum, atol=1e-6, rtol=1e-6)


def test_matches_torchs_muon_on_plain_matrices():
    mine, theirs = nn.Parameter(torch.randn(24, 40)), None
    theirs = nn.Parameter(mine.detach().clone())
    optimizer = torch.optim.Muon(
        [theirs], lr=0.05, weight_decay=0.1, momentum=0.95, nesterov=True, adjust_lr_fn="match_rms_adamw"
    )
    muon = Muon([WeightSlot("w", mine)], **{**SETTINGS, "dtype": torch.bfloat16})
    for _ in range(3):
        mine.grad = torch.randn(24, 40)
        theirs.grad = mine.grad.clone()
        optimizer.step()
        with torch.no_grad():
            muon.step(Update(0.05, 0.1))
    # Both iterate in bfloat16, rounding at different places: 3 updates of RMS 0.2 * 0.05, each some percent off
    assert (mine - theirs).norm() / mine.numel() ** 0.5 < 0.05 * 3 * 0.2 * 0.05


def test_grad_scale_multiplies_the_gradient():
    scaled, plain = parameters(4), parameters(4)
    gradients = random_gradients(plain, 2)
    a = run(plain, [{name: 0.25 * value for name, value in gradient.items()} for gradient in gradients])
    b = run(scaled, gradients, grad_scale=torch.tensor(0.25))
    for slot, other in zip(a.slots, b.slots, strict=True):
        assert torch.equal(slot.weight, other.weight)
        assert torch.equal(a.state(slot)["momentum"], b.state(other)["momentum"])


@pytest.mark.parametrize("keep", [True, False])
def test_keep_decides_bit_for_bit(keep):
    kept, plain = parameters(5), parameters(5)
    with torch.no_grad():
        kept["up"][0, 0] = plain["up"][0, 0] = -0.0
    gradients = random_gradients(plain, 2)
    run(plain, gradients if keep else [])
    if not keep:
        gradients[1]["gate_up"][0, 0, 0, 0] = float("nan")
    muon = run(kept, gradients, keep=torch.tensor(keep))
    for name, weight in kept.items():
        assert torch.equal(weight.view(torch.int32), plain[name].view(torch.int32)), name
    if not keep:
        assert all(not muon.state(slot)["momentum"].view(torch.int32).any() for slot in muon.slots)


def test_small_chunks_change_nothing_but_rounding(monkeypatch):
    whole, cut = parameters(6), parameters(6)
    gradients = random_gradients(whole, 2)
    run(whole, gradients)
    for module in (slots_module, muon_module):
        monkeypatch.setattr(module, "CHUNK_NUMBERS", 500)  # two of the 12 x 16 experts at a time
    run(cut, gradients)
    for name in whole:
        torch.testing.assert_close(whole[name], cut[name], atol=1e-5, rtol=0)


def test_bfloat16_weights_are_their_rounded_masters():
    weights = parameters(7, torch.bfloat16)
    exact = {name: nn.Parameter(weight.detach().float()) for name, weight in weights.items()}
    gradients = random_gradients(weights, 3)
    muon = run(weights, gradients)
    run(exact, [{name: value.float() for name, value in gradient.items()} for gradient in gradients])
    for slot in muon.slots:
        assert slot.master.dtype == torch.float32
        assert torch.equal(slot.weight, slot.master.bfloat16())
        assert torch.equal(slot.master, exact[slot.name])


def test_parameters_without_gradient_are_left_alone():
    weights = parameters(8)
    before = weights["down"].detach().clone()
    muon = Muon([WeightSlot(name, weight) for name, weight in weights.items()], **SETTINGS)
    weights["up"].grad = torch.ones_like(weights["up"])
    with torch.no_grad():
        muon.step(Update(0.1, 0.1))
    assert torch.equal(weights["down"], before)


def test_sparse_gradient_is_refused():
    weight = nn.Parameter(torch.randn(4, 4))
    weight.grad = torch.eye(4).to_sparse()
    with pytest.raises(ValueError, match=r"parameter 'w': Muon needs a dense gradient"):
        Muon([WeightSlot("w", weight)], **SETTINGS).step(Update(0.1, 0.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(4, 6), (7, 31), (9, 32), (33, 65), (48, 48), (20, 12)])
def test_a_matrix_gets_the_same_bits_in_any_company(shape, dtype):
    """Owners of stacked matrices have different ones together on every number of ranks."""
    torch.manual_seed(9)
    start = torch.randn(7, *shape)
    gradients = [{"stack": torch.randn(7, *shape)} for _ in range(2)]
    whole = {"stack": nn.Parameter(start.clone())}
    run(whole, gradients, dtype=dtype)
    for groups in ([[0], [1], [2, 3]], [[3, 5, 6]], [[0, 2], [1, 4, 5, 6]]):
        fresh = {str(group): nn.Parameter(start[group]) for group in groups}
        given = [{str(group): gradient["stack"][group] for group in groups} for gradient in gradients]
        run(fresh, given, dtype=dtype)
        for group in groups:
            assert torch.equal(fresh[str(group)], whole["stack"][group])
