"""The safetensors format: header in, header out. Data is left where it is.

A file is 8 bytes of header length (little endian), that many bytes of JSON, then the tensors without gaps.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from homegrown.hub.errors import HubError

DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
MAX_HEADER = 100_000_000
"""Bytes; the reference library refuses longer headers too."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a tensor lies: `size` bytes from byte `offset` of `file`."""

    name: str
    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{NAMES[self.dtype]} {list(self.shape)}"


def read_header(file: Path) -> dict[str, Stored]:
    """The tensors of a safetensors file, checked: every byte of data belongs to exactly one of them.

    Raises:
        HubError: not a safetensors file, a truncated one, or one whose tensors overlap, leave gaps or come twice.
    """
    try:
        with file.open("rb") as stream:
            total = file.stat().st_size
            (length,) = struct.unpack("<Q", stream.read(8).ljust(8, b"\0"))
            if not 2 <= length <= min(MAX_HEADER, total - 8):
                raise HubError(f"{file}: not a safetensors file: its header would be {length} bytes of {total}")
            table = _parse(file, stream.read(length))
    except OSError as error:
        raise HubError(f"{file}: cannot be read: {error.strerror}") from None
    start = 8 + length
    tensors = {name: _tensor(file, name, entry, start) for name, entry in table.items() if name != "__metadata__"}
    _check_extents(file, tensors.values(), start, total)
    return tensors


def header(tensors: Iterable[tuple[str, torch.dtype, tuple[int, ...]]]) -> bytes:
    """The first bytes of a file that holds these tensors (name, dtype, shape) in this order."""
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, dtype, shape in tensors:
        begin, end = end, end + prod(shape) * dtype.itemsize
        table[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _parse(file: Path, text: bytes) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) < len(pairs):
            names = [name for name, _ in pairs]
            double = next(name for name in names if names.count(name) > 1)
            raise HubError(f"{file}: tensor {double} comes twice in the header")
        return table

    try:
        table = json.loads(text, object_pairs_hook=once)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HubError(f"{file}: not a safetensors file: its header is not JSON: {error}") from None
    if not isinstance(table, dict):
        raise HubError(f"{file}: not a safetensors file: its header is not a JSON object")
    return table


def _tensor(file: Path, name: str, entry: Any, start: int) -> Stored:
    match entry:
        case {"dtype": str(kind), "shape": [*shape], "data_offsets": [int(begin), int(end)]}:
            pass
        case _:
            raise HubError(f"{file}: tensor {name}: its header entry must have dtype, shape and data_offsets")
    if kind not in DTYPES:
        raise HubError(f"{file}: tensor {name}: dtype {kind} is not supported; {', '.join(DTYPES)} are")
    if not all(type(side) is int and side >= 0 for side in shape):
        raise HubError(f"{file}: tensor {name}: {shape} is no shape")
    dtype = DTYPES[kind]
    size = prod(shape) * dtype.itemsize
    if end - begin != size:
        raise HubError(f"{file}: tensor {name}: {kind} {shape} takes {size} bytes, the header gives it {end - begin}")
    return Stored(name, file, dtype, tuple(shape), start + begin, size)


def _check_extents(file: Path, tensors: Iterable[Stored], start: int, total: int) -> None:
    """Data must follow the header without gap, overlap or rest; what lies past the end of the file was cut off."""
    end = start
    for tensor in sorted(tensors, key=lambda tensor: (tensor.offset, tensor.size)):
        if tensor.offset + tensor.size > total:
            missing = tensor.offset + tensor.size - total
            raise HubError(f"{file}: truncated: tensor {tensor.name} ends {missing} bytes past the end of the file")
        if tensor.offset != end:
            problem = "overlaps" if tensor.offset < end else "leaves a gap after"
            raise HubError(f"{file}: tensor {tensor.name} {problem} the one before it: the header is damaged")
        end += tensor.size
    if end != total:
        raise HubError(f"{file}: {total - end} bytes after the last tensor belong to none: the file is damaged")
