"""Rotary frequencies, plain and YaRN (arXiv 2309.00071)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from homegrown.config import RopeConfig


def inverse_frequencies(config: RopeConfig, width: int) -> Tensor:
    """Angle per position of each rotary pair: float64 [width / 2].

    YaRN interpolates slow pairs by `factor`, leaves fast ones, and blends linearly between the pairs that turn
    `beta_fast` and `beta_slow` times within the original context.
    """
    pair = torch.arange(0, width, 2, dtype=torch.float64)
    plain = config.theta ** (-pair / width)
    if config.type == "none":
        return plain
    low, high = yarn_range(config, width)
    ramp = ((torch.arange(width // 2, dtype=torch.float64) - low) / (high - low)).clamp(0, 1)
    return ramp * plain / config.factor + (1 - ramp) * plain


def yarn_range(config: RopeConfig, width: int) -> tuple[float, float]:
    """First and last pair of the blend between original and interpolated frequencies."""

    def pair_that_turns(rotations: float) -> float:
        ratio = config.original_max_position / (2 * math.pi * rotations)
        return width * math.log(ratio) / (2 * math.log(config.theta))

    low = max(math.floor(pair_that_turns(config.beta_fast)), 0)
    high = min(math.ceil(pair_that_turns(config.beta_slow)), width - 1)
    return float(low), high + 0.001 if low == high else float(high)


def attention_factor(config: RopeConfig, mscale: float) -> float:
    """m(factor, mscale) = 1 if factor ≤ 1 else 0.1 · mscale · ln(factor) + 1; 1 without YaRN."""
    if config.type == "none" or config.factor <= 1:
        return 1.0
    return 0.1 * mscale * math.log(config.factor) + 1.0


def softmax_scale(config: RopeConfig, head_dim: int) -> float:
    """τ = head_dim^−0.5 · m(factor, mscale_all_dim)²."""
    return head_dim**-0.5 * attention_factor(config, config.mscale_all_dim) ** 2


def angles(config: RopeConfig, width: int, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine of each position's angles, shape [*positions, width / 2].

    Angles are formed in float64, so that positions near a million keep their phase, and cast to `dtype` (float32 or
    wider) at the end. Both carry the factor m(factor, mscale) / m(factor, mscale_all_dim).
    """
    phase = positions[..., None].to(torch.float64) * inverse_frequencies(config, width).to(positions.device)
    factor = attention_factor(config, config.mscale) / attention_factor(config, config.mscale_all_dim)
    return (phase.cos() * factor).to(dtype), (phase.sin() * factor).to(dtype)
