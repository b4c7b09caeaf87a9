"""Safetensors files written as a stream: headers from shapes, then data piece by piece."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from homegrown.config import ModelConfig
from homegrown.hub.checkpoint import INDEX, SINGLE
from homegrown.hub.errors import HubError
from homegrown.hub.layout import Layout
from homegrown.hub.mapping import Part, parts
from homegrown.hub.tensorfile import header
from homegrown.hub.weights import Weights, cast

STAGE = 1 << 26
"""Bytes of data in memory at a time."""
SHARD_SIZE = 5_000_000_000
"""Bytes after which a new file is begun, unless told otherwise."""
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}

Progress = Callable[[int, int], None]
"""Called with bytes written so far and bytes in all."""


@dataclass(frozen=True)
class Entry:
    """A tensor to be written; `fill(start, out)` puts its elements [start, start + len(out)) into flat `out`."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    fill: Callable[[int, Tensor], None]

    @property
    def size(self) -> int:
        """Bytes."""
        return prod(self.shape) * self.dtype.itemsize


def entries(config: ModelConfig, layout: Layout, weights: Weights, dtype: torch.dtype | None) -> list[Entry]:
    """All tensors of a checkpoint in `layout`, their numbers drawn from `weights` when they are written.

    Args:
        config: the model.
        layout: names.
        weights: numbers.
        dtype: as for `cast`.
    """

    def entry(part: Part) -> Entry:
        stored = weights.dtype(part.ours, part.start, part.count or 1)
        return Entry(part.published, cast(part.ours, stored, dtype), part.shape, partial(_fill, weights, part))

    return [entry(part) for part in parts(config, layout)]


def whole(name: str, tensor: Tensor) -> Entry:
    """An entry for a tensor at hand."""

    def fill(start: int, out: Tensor) -> None:
        out.copy_(tensor.reshape(-1)[start : start + out.numel()])

    return Entry(name, tensor.dtype, tuple(tensor.shape), fill)


def write(folder: Path, tensors: list[Entry], shard_size: int, progress: Progress | None = None) -> None:
    """Write `model.safetensors`, or shards with an index if that would be larger than `shard_size` bytes.

    Memory stays at one piece of `STAGE` bytes. The folder should be a temporary one: a failure leaves files behind.
    """
    shards = plan(tensors, shard_size)
    single = len(shards) == 1
    names = [SINGLE] if single else [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    total = sum(entry.size for entry in tensors)
    done = 0
    stage = torch.empty(STAGE, dtype=torch.uint8)
    for name, shard in zip(names, shards, strict=True):
        with (folder / name).open("wb") as stream:
            stream.write(header((entry.name, entry.dtype, entry.shape) for entry in shard))
            for entry in shard:
                for piece in _pieces(entry, stage):
                    stream.write(piece.numpy().data)
                    done += piece.numel()
                    if progress:
                        progress(done, total)
    if not single:
        weight_map = {entry.name: name for name, shard in zip(names, shards, strict=True) for entry in shard}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")


def plan(tensors: Iterable[Entry], shard_size: int) -> list[list[Entry]]:
    """Cut the list into files, in order; a tensor larger than `shard_size` bytes gets a file of its own.

    Within a file wide dtypes come first, so that every tensor is aligned to its dtype.
    """
    shards: list[list[Entry]] = [[]]
    room = shard_size
    for entry in tensors:
        if entry.size > room and shards[-1]:
            shards.append([])
            room = shard_size
        shards[-1].append(entry)
        room -= entry.size
    return [sorted(shard, key=lambda entry: -entry.dtype.itemsize) for shard in shards]


def parse_size(text: str) -> int:
    """Bytes of a size such as `5GB`, `500MB` or `1000000`.

    Raises:
        HubError: it is no such size, or less than one byte.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) *([KMGT]?)B?", text.strip().upper())
    size = int(float(match[1]) * UNITS[match[2]]) if match else 0
    if size < 1:
        raise HubError(f"{text!r} is no size; write it like 5GB, 500MB or 1000000")
    return size


def _fill(weights: Weights, part: Part, start: int, out: Tensor) -> None:
    held = min(max(part.count - start, 0), out.numel())
    if held:
        weights.fill(part.ours, part.start + start, out[:held])
    out[held:] = 0


def _pieces(entry: Entry, stage: Tensor) -> Iterable[Tensor]:
    """The tensor's bytes, uint8, one piece after the other in the same memory."""
    width, count = entry.dtype.itemsize, prod(entry.shape)
    for start in range(0, count, len(stage) // width):
        piece = stage[: min(count - start, len(stage) // width) * width]
        entry.fill(start, piece.view(entry.dtype))
        yield piece
