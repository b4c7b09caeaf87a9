"""Where weights come from: a checkpoint or a model. Both give any run of any parameter."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from homegrown.hub.checkpoint import Checkpoint
from homegrown.hub.errors import HubError
from homegrown.hub.mapping import CORRECTION, Part
from homegrown.hub.quantised import LOADED, SCALES, Quantised, dequantise, scheme

PIECE = 1 << 22
"""Elements converted at a time: what conversion needs of memory, however large the tensor."""
PRECISE = ("mlp.router.classifier.weight", "indexer.weights_proj.weight")
"""Kept in float32 in releases whose other weights are in 16 bits."""

Run = tuple[str, int, int]
"""Our parameter's name, first element, number of elements."""


class Weights(Protocol):
    """Numbers of a model, addressed by our parameters' names and runs of their elements in row-major order."""

    def dtype(self, ours: str, start: int, count: int) -> torch.dtype:
        """The dtype that holds elements [start, start + count) exactly."""

    def fill(self, ours: str, start: int, out: Tensor) -> None:
        """Copy elements [start, start + len(out)) into the one-dimensional `out`, with its dtype, on its device."""


def cast(ours: str, stored: torch.dtype, wanted: torch.dtype | None) -> torch.dtype:
    """The dtype a tensor gets when `wanted` is asked for (None: the stored one).

    The router and the indexer's head weights are never narrowed, the router's correction bias is never changed: 16
    bits there change which experts and keys are chosen.
    """
    if wanted is None or ours.endswith(CORRECTION):
        return stored
    return stored if ours.endswith(PRECISE) and stored.itemsize > wanted.itemsize else wanted


class CheckpointWeights:
    """Weights of a checkpoint, dequantised where they are eight-bit.

    Args:
        checkpoint: open.
        parts: all its tensors as the config has them.
        ignored: names that may be there and are not read.
        block: block size of FP8 weights.

    Raises:
        HubError: a tensor is missing, has another shape, is not part of the model, or lacks its scale.
    """

    def __init__(
        self, checkpoint: Checkpoint, parts: list[Part], ignored: frozenset[str], block: tuple[int, int]
    ) -> None:
        self._checkpoint = checkpoint
        self._schemes: dict[str, Quantised] = {}
        for part in parts:
            self._check(part, block)
        self.unused = self._leftover(parts, ignored)
        """Tensors that are there and that no forward pass reads, with their scales."""
        self._parts: dict[str, list[Part]] = {}
        for part in parts:
            if part.count:
                self._parts.setdefault(part.ours, []).append(part)

    def parts(self, ours: str) -> list[Part]:
        """The published tensors that make up a parameter, in order."""
        return self._parts[ours]

    def dtype(self, ours: str, start: int, count: int) -> torch.dtype:
        """The narrowest dtype that holds every stored one among these elements; bfloat16 for eight-bit weights."""
        return reduce(torch.promote_types, (self.stored(part) for part, _, _ in self._runs(ours, start, count)))

    def stored(self, part: Part) -> torch.dtype:
        """The dtype a tensor is stored in; bfloat16 if that is an eight-bit one."""
        dtype = self._checkpoint.tensors[part.published].dtype
        return LOADED if part.published in self._schemes else dtype

    def fill(self, ours: str, start: int, out: Tensor) -> None:
        """Copy elements [start, start + len(out)) into `out`, piece by piece."""
        for part, first, last in self._runs(ours, start, out.numel()):
            for begin in range(first, last, PIECE):
                end = min(begin + PIECE, last)
                self._fill(part.published, begin - part.start, out[begin - start : end - start])

    def file(self, part: Part) -> Path:
        """The file a tensor lies in."""
        return self._checkpoint.tensors[part.published].file

    def has_int8_rows(self, part: Part) -> bool:
        """Whether a tensor is stored as int8, with a scale for each row."""
        return part.published in self._schemes and self._checkpoint.tensors[part.published].dtype == torch.int8

    def int8_rows(self, part: Part, first: int, count: int) -> tuple[Tensor, Tensor]:
        """Rows [first, first + count) of such a tensor as they are stored: int8 [count, columns], scales [count]."""
        columns = part.shape[-1]
        values = torch.empty(count * columns, dtype=torch.int8)
        self._checkpoint.read(part.published, first * columns, values)
        scale = self._checkpoint.load(self._schemes[part.published].scale).view(-1)
        return values.view(count, columns), scale[first : first + count]

    def _runs(self, ours: str, start: int, count: int) -> Iterator[tuple[Part, int, int]]:
        """The parts that overlap a run of elements, each with the first and past-the-end element of the overlap."""
        parts = self._parts[ours]
        for index in range(bisect_right(parts, start, key=lambda part: part.start) - 1, len(parts)):
            part = parts[index]
            if part.start >= start + count:
                return
            yield part, max(start, part.start), min(start + count, part.start + part.count)

    def _fill(self, name: str, start: int, out: Tensor) -> None:
        if name in self._schemes:
            out.copy_(self._dequantised(name, start, out.numel()))
            return
        dtype = self._checkpoint.tensors[name].dtype
        if out.dtype == dtype and out.is_cpu:
            self._checkpoint.read(name, start, out)
            return
        piece = torch.empty(out.numel(), dtype=dtype)
        self._checkpoint.read(name, start, piece)
        out.copy_(piece)

    def _dequantised(self, name: str, start: int, count: int) -> Tensor:
        """float32 elements of an eight-bit matrix, by way of the whole rows they lie in."""
        stored, how = self._checkpoint.tensors[name], self._schemes[name]
        columns = stored.shape[1]
        first, last = start // columns, -(-(start + count) // columns)
        values = torch.empty((last - first) * columns, dtype=stored.dtype)
        self._checkpoint.read(name, first * columns, values)
        scale = self._checkpoint.load(how.scale).reshape(-1, -(-columns // how.block[1]))
        wide = dequantise(values.view(-1, columns), scale, how.block, first).flatten()
        return wide[start - first * columns :][:count]

    def _check(self, part: Part, block: tuple[int, int]) -> None:
        stored = self._checkpoint.tensors.get(part.published)
        if stored is None:
            raise HubError(
                f"{self._checkpoint.folder}: tensor {part.published} {list(part.shape)} is missing from its files"
            )
        fits = stored.shape == part.shape
        if part.spare_rows:
            fits = stored.shape[1:] == part.shape[1:] and stored.shape[:1] >= (part.rows,)
        if not fits:
            least = f"at least {part.rows} rows of " if part.spare_rows else ""
            shape = list(part.shape[1:] if part.spare_rows else part.shape)
            raise HubError(f"{stored.file}: tensor {part.published} is {stored}, expected {least}shape {shape}")
        how = scheme(stored, self._checkpoint.tensors, block)
        if how:
            self._schemes[part.published] = how

    def _leftover(self, parts: list[Part], ignored: frozenset[str]) -> tuple[str, ...]:
        known = {part.published for part in parts} | {how.scale for how in self._schemes.values()}
        left = tuple(name for name in self._checkpoint.tensors if name not in known)
        for name in left:
            if name not in ignored and _weight_of(name) not in ignored:
                stored = self._checkpoint.tensors[name]
                raise HubError(f"{stored.file}: tensor {name} ({stored}) has no place in the model of config.json")
        return left


class ModelWeights:
    """Weights of a model in memory.

    Args:
        state: the model's `state_dict()`.
        stored: dtypes of runs of elements, where memory is wider than the file it was read from.
    """

    def __init__(self, state: dict[str, Tensor], stored: dict[Run, torch.dtype]) -> None:
        self._state = state
        self._stored = stored

    def dtype(self, ours: str, start: int, count: int) -> torch.dtype:
        """The dtype in memory, or that of the file it came from."""
        return self._stored.get((ours, start, count), self._state[ours].dtype)

    def fill(self, ours: str, start: int, out: Tensor) -> None:
        """Copy elements [start, start + len(out)) into `out`."""
        out.copy_(self._state[ours].detach().reshape(-1)[start : start + out.numel()])


def _weight_of(name: str) -> str:
    """The weight that a scale belongs to; another tensor's own name."""
    return next((name.removesuffix(suffix) for suffix in SCALES if name.endswith(suffix)), name)
