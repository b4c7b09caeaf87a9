"""What a checkpoint holds, as its manifest says it: parts, files, tensors, facts, under one seal."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from homegrown.config import UserError

MANIFEST = "manifest.json"
FORMAT = 1
_SPEC = re.compile(r"(\w+)\[([\d,]*)\]")


class CheckpointError(UserError):
    """A checkpoint that cannot be used or written; the message names the file or tensor and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Spec:
    """Dtype and shape of a stored tensor; its text is like `float32[6,4]`."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')}[{','.join(map(str, self.shape))}]"

    @classmethod
    def of(cls, tensor: Tensor) -> Spec:
        """That of a tensor at hand."""
        return cls(tensor.dtype, tuple(tensor.shape))

    @classmethod
    def parse(cls, text: str) -> Spec:
        """The inverse of `str`."""
        match = _SPEC.fullmatch(text)
        dtype = getattr(torch, match[1], None) if match else None
        if match is None or not isinstance(dtype, torch.dtype):
            raise ValueError(f"{text!r} is no dtype and shape")
        return cls(dtype, tuple(int(side) for side in match[2].split(",") if side))

    @property
    def size(self) -> int:
        """Bytes."""
        return prod(self.shape) * self.dtype.itemsize

    def empty(self) -> Tensor:
        """Host memory for such a tensor."""
        return torch.empty(self.shape, dtype=self.dtype)


@dataclass(frozen=True, slots=True)
class FileFacts:
    """Length and checksum of a file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Part:
    """What one rank wrote: a directory.

    Attributes:
        files: by name.
        tensors: by key, with dtype and shape.
    """

    files: dict[str, FileFacts]
    tensors: dict[str, Spec]

    def table(self) -> dict[str, Any]:
        """As JSON."""
        files = {name: asdict(file) for name, file in self.files.items()}
        return {"files": files, "tensors": {key: str(spec) for key, spec in self.tensors.items()}}

    @classmethod
    def of(cls, table: dict[str, Any]) -> Part:
        """From JSON."""
        files = {name: FileFacts(**file) for name, file in table["files"].items()}
        return cls(files, {key: Spec.parse(text) for key, text in table["tensors"].items()})


@dataclass(frozen=True)
class Manifest:
    """A checkpoint's table of contents.

    Attributes:
        step: optimizer steps taken.
        facts: everything that is not a tensor, as written.
        layout: how the world that wrote it was laid out; for people, reading does not depend on it.
        run: which run it belongs to; empty if the writer did not say.
        parts: by directory name.
    """

    step: int
    facts: dict[str, Any]
    parts: dict[str, Part]
    layout: dict[str, Any] = field(default_factory=dict)
    run: str = ""

    @cached_property
    def tensors(self) -> dict[str, Spec]:
        """Every tensor of the checkpoint."""
        return {key: spec for part in self.parts.values() for key, spec in part.tensors.items()}

    @cached_property
    def part_of(self) -> dict[str, str]:
        """Key -> name of the part that holds it."""
        return {key: name for name, part in self.parts.items() for key in part.tensors}

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(spec.size for spec in self.tensors.values())

    def by_part(self, keys: Iterable[str]) -> dict[str, list[str]]:
        """The keys, by the part that holds them; parts in the order of their names."""
        found: dict[str, list[str]] = {}
        for key in keys:
            found.setdefault(self.part_of[key], []).append(key)
        return dict(sorted(found.items()))

    def misfits(self, wanted: Mapping[str, Tensor]) -> list[str]:
        """One clause for each wanted tensor that is not there, or there in another shape or dtype."""
        return [
            f"tensor {key!r} is missing"
            if key not in self.tensors
            else f"tensor {key!r} is {self.tensors[key]}, not {Spec.of(tensor)} as asked for"
            for key, tensor in wanted.items()
            if self.tensors.get(key) != Spec.of(tensor)
        ]

    def text(self) -> str:
        """The manifest's file: JSON with a checksum over all of it, which holds the checksums of all files."""
        content = {
            "format": FORMAT,
            "step": self.step,
            "run": self.run,
            "facts": self.facts,
            "layout": self.layout,
            "parts": {name: part.table() for name, part in self.parts.items()},
        }
        return json.dumps({"content": content, "checksum": _seal(content)}, indent=1)

    @classmethod
    def parse(cls, text: str, where: Path) -> Manifest:
        """Read a manifest and verify its seal.

        Raises:
            CheckpointError: it is damaged, or of a format this version does not read.
        """
        try:
            table = json.loads(text)
            content = table["content"]
            if _seal(content) != table["checksum"]:
                raise CheckpointError(f"{where}: its content does not fit its checksum")
            if content["format"] != FORMAT:
                raise CheckpointError(f"{where}: format {content['format']}, where this version reads {FORMAT}")
            parts = {name: Part.of(part) for name, part in content["parts"].items()}
            return cls(content["step"], content["facts"], parts, content["layout"], content["run"])
        except CheckpointError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{where}: damaged ({error})") from None


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint's directory.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    return Manifest.parse(manifest_text(folder), folder / MANIFEST)


def manifest_text(folder: Path) -> str:
    """A manifest's file as it is.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        return (folder / MANIFEST).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CheckpointError(f"{folder / MANIFEST}: missing") from None
    except OSError as error:
        raise CheckpointError(f"{folder / MANIFEST}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{folder / MANIFEST}: damaged ({error})") from None


def _seal(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
