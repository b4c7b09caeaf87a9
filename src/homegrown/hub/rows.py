"""Rows of parameters straight out of a directory's files: how a sharded run starts from published weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from homegrown.config import ModelConfig
from homegrown.hub.errors import HubError
from homegrown.hub.mapping import tensors
from homegrown.hub.source import open_source

Rows = tuple[str, int, int]
"""Our name of a parameter or buffer, and its rows [start, stop) along dim 0."""


def pieces_from_directory(
    folder: Path, wanted: Iterable[Rows], config: ModelConfig, dtype: torch.dtype = torch.float32
) -> Iterator[tuple[Rows, Tensor]]:
    """Read just the wanted rows, one piece after the other, from slices of the stored tensors.

    Memory holds one piece; eight-bit weights are dequantised.

    Args:
        folder: a Hugging Face directory in any layout of the family.
        wanted: in the order in which they are to come.
        config: the model they are for.
        dtype: what they are converted to.

    Yields:
        Each of `wanted` with its rows, `[stop - start, ...]` in host memory.

    Raises:
        HubError: the directory is not what it should be, or holds the parameter in another shape than `config` says.
    """
    shapes = tensors(config)
    with open_source(folder) as source:
        stored = tensors(source.config)
        for name, start, stop in wanted:
            shape = shapes.get(name)
            if shape is None or stored.get(name) != shape:
                there = f"has shape {list(stored[name])}" if name in stored else "is not there"
                asked = f"shape {list(shape)}" if shape else "no such parameter"
                raise HubError(f"{folder}: parameter {name} {there}, where the model has {asked}")
            if not 0 <= start <= stop <= shape[0]:
                raise HubError(f"{folder}: parameter {name} has {shape[0]} rows, not {start} to {stop}")
            out = torch.empty((stop - start, *shape[1:]), dtype=dtype)
            source.weights.fill(name, start * prod(shape[1:]), out.view(-1))
            yield (name, start, stop), out
