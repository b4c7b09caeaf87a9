"""A rank's shards of a model, read from a directory without the whole ever being anywhere."""

from __future__ import annotations

from math import prod
from pathlib import Path

import torch
from torch import Tensor

from homegrown.config import ModelConfig
from homegrown.hub.mapping import CORRECTION
from homegrown.hub.source import Source, open_source
from homegrown.hub.weights import PIECE, cast
from homegrown.model import Longcat
from homegrown.parallel.layout import Layout, Shard
from homegrown.parallel.parts import build_part, shards


def config_of(folder: Path) -> ModelConfig:
    """The model in a directory. Its headers are read, and checked.

    Raises:
        HubError: the directory is not what it should be.
    """
    with open_source(folder) as source:
        return source.config


def load_shards(folder: Path, layout: Layout, rank: int, device: torch.device, dtype: torch.dtype | None) -> Longcat:
    """What `rank` holds of a directory's model, its parameters filled one by one.

    Args:
        folder: a Hugging Face directory in any layout of the family; eight-bit weights are dequantised.
        layout, rank: whose shards; a layout without pipeline.
        device: where they go.
        dtype: as in `hub.load`.

    Raises:
        HubError: the directory is not what it should be.
    """
    with open_source(folder) as source:
        (part,) = layout.parts_of(rank)
        model = build_part(source.config, part, layout, rank)
        state = {name: _read(source, name, shard, device, dtype) for name, shard in shards(model, layout, rank)}
        for name, buffer in model.named_buffers():
            shape = tuple(buffer.shape)
            state[name] = _read(source, name, Shard(shape, 0, 0, shape[0]), device, dtype)
    model.load_state_dict(state, assign=True)
    return model.eval()


def _read(source: Source, name: str, shard: Shard, device: torch.device, dtype: torch.dtype | None) -> Tensor:
    numbers, weights = prod(shard.shape), source.weights
    stored = weights.dtype(name, 0, numbers)
    kind = torch.float32 if name.endswith(CORRECTION) else cast(name, stored, dtype)
    out = torch.empty(shard.local_shape, dtype=kind, device=device)
    if shard.dim == 0:
        weights.fill(name, shard.start * prod(shard.shape[1:]), out.view(-1))
        return out
    # Columns: whole rows come from the file, some at a time.
    rows, width = shard.shape
    step = max(1, PIECE // width)
    for first in range(0, rows, step):
        count = min(step, rows - first)
        block = torch.empty(count, width, dtype=kind)
        weights.fill(name, first * width, block.view(-1))
        out[first : first + count] = block[:, shard.start : shard.stop]
    return out
