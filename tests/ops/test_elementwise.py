"""Norm, rotation and gate."""

import pytest
import torch

from homegrown import ops

from .compare import TOLERANCE, check, relative


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", [(7, 24), (2, 5, 24)])
def test_rms_norm(dtype, shape):
    inputs = [torch.randn(shape) * 3, torch.rand(shape[-1]) + 0.5]
    check("rms_norm", lambda x, weight: ops.rms_norm(x, weight, 1e-5), inputs, dtype)


def test_rms_norm_with_a_weight_of_another_dtype():
    x, weight = torch.randn(6, 24), torch.rand(24, dtype=torch.float64)
    wanted = weight * x / (x.double().square().mean(-1, keepdim=True) + 1e-5).sqrt()
    assert relative(ops.rms_norm(x, weight, 1e-5), wanted) < 1e-6


def test_rms_norm_of_a_tiny_row():
    """ε keeps a row of zeros at zero, with a finite gradient."""
    x, weight = torch.zeros(3, 24).requires_grad_(), torch.ones(24)
    ops.rms_norm(x, weight, 1e-5).sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("interleaved", [True, False])
def test_rotary(dtype, interleaved):
    angle = torch.rand(2, 5, 1, 4, dtype=torch.float64) * 6
    wide = torch.promote_types(dtype, torch.float32)

    def call(x):
        tables = (
            (angle.cos(), angle.sin()) if x.dtype == torch.float64 else (angle.cos().to(wide), angle.sin().to(wide))
        )
        return ops.rotary(x, *tables, interleaved)

    check("rotary", call, [torch.randn(2, 5, 3, 8)], dtype)


@pytest.mark.parametrize("interleaved", [True, False])
def test_rotary_turns_each_pair(interleaved):
    """A pair of lanes, as a complex number, is multiplied by exp(i angle)."""
    x, angle = torch.randn(6, 8, dtype=torch.float64), torch.rand(6, 4, dtype=torch.float64) * 6
    got = ops.rotary(x, angle.cos(), angle.sin(), interleaved)

    def pairs(item):
        first, second = (item[:, 0::2], item[:, 1::2]) if interleaved else (item[:, :4], item[:, 4:])
        return torch.complex(first, second)

    turned = pairs(x) * torch.polar(torch.ones_like(angle), angle)
    assert (pairs(got) - turned).abs().max() < 1e-14


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_swiglu(dtype):
    check("swiglu", ops.swiglu, [torch.randn(2, 5, 8) * 3, torch.randn(2, 5, 8)], dtype)
