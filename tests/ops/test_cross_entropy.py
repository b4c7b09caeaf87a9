import importlib

import pytest
import torch

from homegrown import ops

from .compare import TOLERANCE, check, relative

module = importlib.import_module("homegrown.ops.cross_entropy")

TOKENS, HIDDEN, VOCAB = 50, 16, 33


@pytest.fixture
def several_chunks(monkeypatch):
    """Seven tokens a chunk; the last chunk is short."""
    monkeypatch.setattr(module, "CHUNK_BYTES", 7 * VOCAB * 4)


def targets() -> torch.Tensor:
    """Every seventh token and one whole chunk are left out."""
    target = torch.randint(0, VOCAB, (TOKENS,))
    target[::7], target[14:21] = -1, -1
    return target


@pytest.mark.parametrize(
    ("dtype", "spread"), [*((dtype, 1.0) for dtype in TOLERANCE), (torch.float64, 30.0), (torch.float32, 30.0)]
)
def test_implementations(several_chunks, dtype, spread):
    """Also where the softmax is nearly one-hot, but in bfloat16: its logits of a hundred are off by a half, which turns
    near ties around whoever computes them."""
    target = targets()
    inputs = [torch.randn(TOKENS, HIDDEN) * spread, torch.randn(VOCAB, HIDDEN) * HIDDEN**-0.5]
    check("linear_cross_entropy", lambda *args: ops.linear_cross_entropy(*args, target), inputs, dtype)


def test_value_without_gradients(several_chunks):
    target, hidden, weight = targets(), torch.randn(TOKENS, HIDDEN), torch.randn(VOCAB, HIDDEN)
    log_probs = (hidden.double() @ weight.double().T).log_softmax(-1)
    kept = target >= 0
    wanted = -log_probs[kept, target[kept]].sum()
    with torch.no_grad():
        assert relative(ops.linear_cross_entropy(hidden, weight, target), wanted) < 1e-6


def test_a_token_left_out_has_no_gradient(several_chunks):
    target, hidden = targets(), torch.randn(TOKENS, HIDDEN).requires_grad_()
    ops.linear_cross_entropy(hidden, torch.randn(VOCAB, HIDDEN), target).backward()
    assert hidden.grad[target < 0].abs().max() == 0
