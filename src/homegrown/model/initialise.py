"""Initial weights: a function of the seed and each parameter's name, whatever the order or the sharding.

A parameter is drawn in blocks along its first dimension, each from a generator of its own, so that whoever holds a part
of it draws that part alone: one expert at a time of stacked ones, a block of rows (`row_blocks`) of anything else.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

from homegrown.config import ModelConfig
from homegrown.config.blocks import TABLE_BLOCKS, row_blocks

PROXY_WIDTH = 768
"""Width at which `initializer_range` is the deviation of hidden matrices (arXiv 2509.01322 table 1)."""
QUIET = 0.1
"""Deviation of n-gram rows, beside 1 + T for word rows."""

TABLE = "ngram_embeddings.table"


def initialise(model: nn.Module, config: ModelConfig, seed: int) -> None:
    """Fill every parameter in place.

    Norms are one and biases zero. Hidden matrices have variance σ² · 768 / fan_in, so that a narrow proxy transfers to
    a wide model; those that write into the residual stream are divided by sqrt(2 · sublayers). Word rows
    are drawn so that the fused embedding has deviation one; n-gram rows begin almost silent beside them, since rows at
    the words' scale would only be noise until they have learned.
    """
    for name, parameter in model.named_parameters():
        shape = tuple(parameter.shape)
        fill_shard(parameter, name, shape, 0, 0, shape[0], config, seed)


@torch.no_grad()
def fill_shard(
    target: Tensor, name: str, shape: tuple[int, ...], dim: int, start: int, stop: int, config: ModelConfig, seed: int
) -> None:
    """Fill `target` with the part start..stop along `dim` of the initial values of a parameter.

    Args:
        target: where to; any dtype and device.
        name, shape: of the whole parameter.
        dim, start, stop: the part.
        config: the model.
        seed: the run's.
    """
    if len(shape) == 1:
        target.fill_(0.0 if name.endswith("bias") else 1.0)
        return
    first, last = (start, stop) if dim == 0 else (0, shape[0])
    for row, block in _blocks(name, shape, first, last, config, seed):
        low, high = max(row, first), min(row + block.shape[0], last)
        part = block[low - row : high - row]
        target[low - first : high - first].copy_(part if dim == 0 else part.narrow(dim, start, stop - start))


def _blocks(
    name: str, shape: tuple[int, ...], first: int, last: int, config: ModelConfig, seed: int
) -> Iterator[tuple[int, Tensor]]:
    """First row and values, float32 on the host, of the blocks that rows first..last lie in."""
    if len(shape) > 2:
        borders = list(range(shape[0] + 1))
    else:
        borders = row_blocks(shape[0], shape[1], TABLE_BLOCKS if name == TABLE else 1)
    deviation = _deviation(name, shape[-1], config)
    for start, stop in pairwise(borders):
        if start < last and stop > first:
            yield start, _normal((stop - start, *shape[1:]), deviation, f"{seed}/{name}/{start}")


def _deviation(name: str, fan_in: int, config: ModelConfig) -> float:
    if name == "embed_tokens.weight":
        return 1.0 + config.ngram.tables if config.ngram.fusion == "mean" else 1.0
    if name == TABLE:
        return QUIET
    if name == "ngram_embeddings.proj":
        return fan_in**-0.5
    deviation = config.initializer_range * math.sqrt(PROXY_WIDTH / fan_in)
    if name.endswith(("o_proj.weight", "down_proj", "down_proj.weight")):
        return deviation / math.sqrt(4 * config.num_layers)
    return deviation


def _normal(shape: tuple[int, ...], deviation: float, key: str) -> Tensor:
    """Normal values from a generator seeded by `key`, drawn on the host so that every device gets the same ones."""
    digest = hashlib.sha256(key.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.empty(shape, dtype=torch.float32, device="cpu").normal_(0.0, deviation, generator=generator)
