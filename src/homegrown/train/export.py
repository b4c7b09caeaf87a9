"""A training checkpoint as a Hugging Face directory: masters stream from file to file, no model is built."""

from __future__ import annotations

import warnings
from bisect import bisect_right
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from homegrown.config import ModelConfig, TrainConfig, build, read_toml
from homegrown.data import TokenDataset
from homegrown.hub import SHARD_SIZE, HubWarning, default_layout, tensors
from homegrown.hub.directory import new_directory, write_directory
from homegrown.hub.layout import named_layout
from homegrown.hub.mapping import CORRECTION
from homegrown.hub.writer import Progress, entries
from homegrown.model import Longcat
from homegrown.tokenizer import Tokenizer
from homegrown.train.checkpoint import CheckpointError, Key, Manifest, inspect, locate
from homegrown.train.checkpoint.keys import router_key
from homegrown.train.checkpoint.part import PartReader

OPEN_PARTS = 64
"""Parts whose tables of contents are kept: neighbouring pieces may be spread over many ranks' parts."""


def export_checkpoint(
    path: Path,
    out: Path,
    *,
    layout: str | None = None,
    dtype: torch.dtype | None = None,
    shard_size: int = SHARD_SIZE,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write what a checkpoint's model is as a Hugging Face directory. It appears whole or not at all.

    Memory holds one piece of one parameter. The tokenizer is that of the run's dataset, where both are in reach.

    Args:
        path: a checkpoint, or a run (its newest sound checkpoint is taken).
        out: must not exist yet.
        overwrite: replace a model's directory at `out`.
        layout: a name in `hub.LAYOUTS`; None takes the family's for a model of this kind.
        dtype: of the weights; None is what the run trained in, float32 the masters themselves. The router's weights
            are never narrowed.
        shard_size: bytes after which a new file is begun.
        progress: called as bytes are written.

    Raises:
        CheckpointError: no sound checkpoint, or it does not hold a whole model.
        HubError: `out` exists, or the layout cannot hold the model.
    """
    folder = locate(path)
    weights = MasterWeights(folder, inspect(folder, verify=True))
    config = weights.config
    names = default_layout(config) if layout is None else named_layout(layout, config)
    tokenizer = _tokenizer(folder)
    with new_directory(out, overwrite) as written:
        write_directory(written, config, names, entries(config, names, weights, dtype), None, shard_size, progress)
        if tokenizer is not None:
            tokenizer.save(written)


class MasterWeights:
    """The weights in a checkpoint, as the hub's writer draws them: any run of any parameter, from its pieces.

    Args:
        folder: the checkpoint.
        manifest: of it.

    Raises:
        CheckpointError: it does not say what model it is of, or pieces are missing.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._folder, self._manifest = folder, manifest
        self.config = build(ModelConfig, _fact(folder, manifest, "model"), f"{folder}: model")
        with torch.device("meta"):
            model = Longcat(self.config)
        model.cast(getattr(torch, _fact(folder, manifest, "precision")))
        self._dtypes = {name: tensor.dtype for name, tensor in model.state_dict().items()}
        self._shapes = tensors(self.config)
        self._pieces = _pieces(manifest, self._shapes)
        for name, shape in self._shapes.items():
            self._require_whole(name, shape)
        self._held: tuple[str, Tensor] = ("", torch.empty(0))
        self._reader = lru_cache(OPEN_PARTS)(lambda part: PartReader(folder / part))

    def dtype(self, ours: str, start: int, count: int) -> torch.dtype:
        """The dtype that the run trained in."""
        return self._dtypes[ours]

    def fill(self, ours: str, start: int, out: Tensor) -> None:
        """Copy elements [start, start + len(out)) into the one-dimensional `out`, rounding where it is narrower."""
        width, stop = prod(self._shapes[ours][1:]), start + out.numel()
        pieces = self._pieces[ours]
        for index in range(bisect_right(pieces, start // width, key=lambda piece: piece[1]), len(pieces)):
            first_row, last_row, key = pieces[index]
            begin, end = max(start, first_row * width), min(stop, last_row * width)
            if begin >= stop:
                return
            out[begin - start : end - start] = self._piece(key)[begin - first_row * width : end - first_row * width]

    def _piece(self, key: str) -> Tensor:
        """A piece, flat. The last one is kept: a parameter is drawn in order."""
        if self._held[0] != key:
            tensor = self._manifest.tensors[key].empty()
            self._reader(self._manifest.part_of[key]).read({key: tensor})
            self._held = key, tensor.view(-1)
        return self._held[1]

    def _require_whole(self, name: str, shape: tuple[int, ...]) -> None:
        row = 0
        for start, stop, key in self._pieces.get(name, []):
            if start != row or self._manifest.tensors[key].shape != (stop - start, *shape[1:]):
                raise CheckpointError(f"{self._folder}: {key!r} is no piece of a parameter of shape {list(shape)}")
            row = stop
        if row != shape[0]:
            raise CheckpointError(f"{self._folder}: rows {row} to {shape[0]} of parameter {name} are missing")


def _pieces(manifest: Manifest, shapes: dict[str, tuple[int, ...]]) -> dict[str, list[tuple[int, int, str]]]:
    """First and past-the-end row, and key, of each parameter's pieces in order."""
    found: dict[str, list[tuple[int, int, str]]] = {}
    for text in manifest.tensors:
        key = Key.parse(text)
        if key is not None and key.kind == "master":
            found.setdefault(key.name, []).append((key.start, key.stop, text))
    for name, shape in shapes.items():
        if name.endswith(CORRECTION):
            text = router_key(int(name.split(".")[1]))
            found[name] = [(0, shape[0], text)] if text in manifest.tensors else []
    return {name: sorted(pieces) for name, pieces in found.items()}


def _fact(folder: Path, manifest: Manifest, name: str) -> Any:
    if name not in manifest.facts:
        raise CheckpointError(f"{folder}: its facts do not name the {name}: it was not written by a run")
    return manifest.facts[name]


def _tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer of the run that a checkpoint lies in."""
    recorded = folder.parent.parent / "config.toml"
    if not recorded.exists():
        warnings.warn(f"written without a tokenizer: {folder} does not lie in a run", HubWarning, stacklevel=3)
        return None
    data = build(TrainConfig, read_toml(recorded), str(recorded)).data.path
    if not data.exists():
        warnings.warn(f"written without a tokenizer: the run's dataset {data} is gone", HubWarning, stacklevel=3)
        return None
    return TokenDataset.open(data).tokenizer()
