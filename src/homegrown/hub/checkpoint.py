"""A directory of safetensors files, read piece by piece."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from homegrown.hub.errors import HubError
from homegrown.hub.tensorfile import Stored, read_header

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
AUXILIARY = "model-auxiliary.safetensors"
"""Flash-Lite keeps its draft head there, beside the files of the index."""


class Checkpoint:
    """The tensors of a directory. Opening reads and checks all headers; `read` fetches data.

    Args:
        folder: holds `model.safetensors`, or `model.safetensors.index.json` and the files it names; and perhaps
            `model-auxiliary.safetensors`.

    Raises:
        HubError: no such files, a shard is missing or damaged, a tensor lies in two files or not where the index says.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tensors: dict[str, Stored] = {}
        self._open: dict[Path, BinaryIO] = {}
        weight_map = _weight_map(folder)
        files = {*weight_map.values()} or {SINGLE}
        if (folder / AUXILIARY).exists():
            files.add(AUXILIARY)
        for file in sorted(files):
            self._add(read_header(folder / file))
        for name, file in weight_map.items():
            self._check_place(name, folder / file)

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; reading opens them again."""
        for stream in self._open.values():
            stream.close()
        self._open.clear()

    def read(self, name: str, start: int, out: Tensor) -> None:
        """Copy elements [start, start + len(out)) of a tensor, flattened, into `out`, without conversion.

        Args:
            name: tensor.
            start: first element.
            out: contiguous one-dimensional tensor in host memory, of the stored dtype.

        Raises:
            HubError: the file has become shorter or unreadable since it was opened.
        """
        stored = self.tensors[name]
        space = out.view(torch.uint8).numpy().data
        try:
            stream = self._stream(stored.file)
            stream.seek(stored.offset + start * stored.dtype.itemsize)
            while len(space):
                got = stream.readinto(space)  # type: ignore[attr-defined]
                if not got:
                    raise HubError(f"{stored.file}: truncated: it ends inside tensor {name}")
                space = space[got:]
        except OSError as error:
            raise HubError(f"{stored.file}: tensor {name} cannot be read: {error.strerror}") from None

    def load(self, name: str) -> Tensor:
        """A whole tensor in its stored shape and dtype, in host memory."""
        stored = self.tensors[name]
        out = torch.empty(stored.shape, dtype=stored.dtype)
        self.read(name, 0, out.view(-1))
        return out

    def _stream(self, file: Path) -> BinaryIO:
        if file not in self._open:
            self._open[file] = file.open("rb", buffering=0)
        return self._open[file]

    def _add(self, found: dict[str, Stored]) -> None:
        for name, stored in found.items():
            if name in self.tensors:
                raise HubError(f"tensor {name} lies in two files: {self.tensors[name].file} and {stored.file}")
            self.tensors[name] = stored

    def _check_place(self, name: str, file: Path) -> None:
        stored = self.tensors.get(name)
        if stored is None or stored.file != file:
            elsewhere = f"; it lies in {stored.file.name}" if stored else ""
            raise HubError(f"{file}: tensor {name} is not there, although {INDEX} says so{elsewhere}")


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        HubError: no such file, or not a JSON object.
    """
    try:
        table = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise HubError(f"{file}: no such file") from None
    except OSError as error:
        raise HubError(f"{file}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise HubError(f"{file}: not valid JSON: {error}") from None
    if not isinstance(table, dict):
        raise HubError(f"{file}: must be a JSON object")
    return table


def _weight_map(folder: Path) -> dict[str, str]:
    """Tensor -> file by the index; empty if there is just the one file."""
    index = folder / INDEX
    if not index.exists():
        if not (folder / SINGLE).exists():
            raise HubError(f"{folder}: neither {SINGLE} nor {INDEX} is there")
        return {}
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise HubError(f"{index}: must have a weight_map from tensors to files")
    for name, file in weight_map.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise HubError(f"{index}: tensor {name}: {file!r} is not the name of a file in this directory")
        if not (folder / file).exists():
            raise HubError(f"{folder / file}: missing: {INDEX} has tensor {name} and others there")
    return weight_map
