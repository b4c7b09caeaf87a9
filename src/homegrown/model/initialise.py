"""Initial weights: a function of the seed and each parameter's name, whatever the order or the sharding."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor, nn

from homegrown.config import ModelConfig

PROXY_WIDTH = 768
"""Width at which `initializer_range` is the deviation of hidden matrices (arXiv 2509.01322 table 1)."""
QUIET = 0.1
"""Deviation of n-gram rows, beside 1 + T for word rows."""


def initialise(model: nn.Module, config: ModelConfig, seed: int) -> None:
    """Fill every parameter in place.

    Norms are one and biases zero. Hidden matrices have variance σ² · 768 / fan_in, so that a narrow proxy transfers to
    a wide model; those that write into the residual stream are divided by sqrt(2 · sublayers). Word rows
    are drawn so that the fused embedding has deviation one; n-gram rows begin almost silent beside them, since rows at
    the words' scale would only be noise until they have learned.
    """
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            if parameter.ndim == 1:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            else:
                _fill_normal(parameter, _deviation(name, parameter, config), f"{seed}/{name}")


def _deviation(name: str, parameter: Tensor, config: ModelConfig) -> float:
    fan_in = parameter.shape[-1]
    if name == "embed_tokens.weight":
        return 1.0 + config.ngram.tables if config.ngram.fusion == "mean" else 1.0
    if name == "ngram_embeddings.table":
        return QUIET
    if name == "ngram_embeddings.proj":
        return fan_in**-0.5
    deviation = config.initializer_range * math.sqrt(PROXY_WIDTH / fan_in)
    if name.endswith(("o_proj.weight", "down_proj", "down_proj.weight")):
        return deviation / math.sqrt(4 * config.num_layers)
    return deviation


def _fill_normal(parameter: Tensor, deviation: float, key: str) -> None:
    """Normal values from a generator seeded by `key`, drawn on the host so that every device gets the same ones."""
    digest = hashlib.sha256(key.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    flat = parameter.view(-1)
    step = 1 << 24
    for start in range(0, flat.numel(), step):
        part = flat[start : start + step]
        values = torch.empty(part.numel(), dtype=torch.float32).normal_(0.0, deviation, generator=generator)
        part.copy_(values)
