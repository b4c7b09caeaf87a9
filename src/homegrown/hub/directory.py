"""Hugging Face directories <-> models in memory."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from homegrown.config import ModelConfig
from homegrown.config.atomic import atomic_dir
from homegrown.hub.errors import HubError
from homegrown.hub.int8 import read_int8
from homegrown.hub.layout import TRANSFORMERS, Layout, default_layout, named_layout
from homegrown.hub.mapping import CORRECTION, tensors
from homegrown.hub.published import CONFIG, render_config
from homegrown.hub.quantised import LOADED
from homegrown.hub.source import GENERATION, Source, open_source
from homegrown.hub.weights import ModelWeights, Run, cast
from homegrown.hub.writer import SHARD_SIZE, Entry, Progress, entries, whole, write
from homegrown.model import Longcat
from homegrown.model.int8 import eight_bit_names, hollow, is_quantised
from homegrown.tokenizer import Tokenizer

TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Origin:
    """What `save` needs to write a directory as it was read.

    Attributes:
        layout: its names.
        stored: dtypes of runs that are wider in memory than they were on disk.
        unused: tensors no forward pass reads.
        generation: its generation_config.json.
    """

    layout: Layout
    stored: dict[Run, torch.dtype] = field(default_factory=dict)
    unused: dict[str, Tensor] = field(default_factory=dict)
    generation: dict[str, Any] | None = None


_origins: WeakKeyDictionary[nn.Module, Origin] = WeakKeyDictionary()


def load(
    path: str | Path,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    *,
    keep_unused: bool = False,
    int8: bool = False,
) -> tuple[Longcat, Tokenizer | None]:
    """Read a model of the family, in any of its published layouts.

    The model is built without memory and its parameters are filled one by one, so the peak is about the weights' size.

    Args:
        path: directory with config.json and safetensors files, whole or in shards; FP8 and INT8 weights are
            dequantised.
        device: where the parameters go; None is PyTorch's default device.
        dtype: of the parameters. None keeps each one's stored dtype, bfloat16 for eight-bit weights. The router's
            weights are never narrowed, its correction bias is float32 always.
        keep_unused: also keep tensors that no forward pass reads, for `save`.
        int8: round large matrices to eight bits as they are read, as `homegrown.model.int8` says; `dtype` is that of
            activations and of all else, bfloat16 where it is None. Such a model is for inference and cannot be saved.

    Returns:
        The model, and its tokenizer or None if the directory has none.

    Raises:
        HubError: the directory is not what it should be; the message names file and tensor or key.
    """
    folder = Path(path)
    with open_source(folder, keep_unused) as source:
        tokenizer = Tokenizer.from_dir(folder) if (folder / TOKENIZER).exists() else None
        with torch.device("meta"):
            model = Longcat(source.config)
        target = torch.get_default_device() if device is None else torch.device(device)
        if int8:
            _fill_int8(model, source, target, LOADED if dtype is None else dtype)
            return model, tokenizer
        shapes = tensors(source.config)
        state = {ours: _materialise(source, ours, shape, target, dtype) for ours, shape in shapes.items()}
        model.load_state_dict(state, assign=True)
        _origins[model] = _origin(source, dtype)
    return model, tokenizer


def save(
    model: Longcat,
    tokenizer: Tokenizer | None,
    path: str | Path,
    *,
    layout: str | None = None,
    dtype: torch.dtype | None = None,
    shard_size: int = SHARD_SIZE,
    generation: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a Hugging Face directory: config, weights, tokenizer, generation defaults. It appears whole or not at all.

    Args:
        model: what to write.
        tokenizer: None writes none.
        path: must not exist yet, unless `overwrite`.
        layout: a name in `LAYOUTS`; None takes the one the model was loaded from, else the family's for its kind.
        dtype: of the weights; None keeps each one's dtype. The router's weights are never narrowed.
        shard_size: bytes after which a new file is begun.
        generation: content of generation_config.json; None takes the loaded one, else the family's defaults.
        overwrite: replace a model's directory that is there, once the new one is complete.

    Raises:
        HubError: `path` exists, the layout cannot hold the model, or its parameters have no memory (meta device) or
            were rounded to eight bits.
    """
    if is_quantised(model):
        raise HubError(
            f"{path}: cannot save: this model's weights were rounded to eight bits for inference; save the model they "
            "came from, or load it again without int8"
        )
    config = model.config
    origin = _origins.get(model, Origin(default_layout(config)))
    names = origin.layout if layout is None else named_layout(layout, config)
    state = model.state_dict()
    hollow = next((name for name, tensor in state.items() if tensor.is_meta), None)
    if hollow:
        raise HubError(f"{path}: cannot save: parameter {hollow} is on the meta device, without numbers")
    written = entries(config, names, ModelWeights(state, origin.stored), dtype)
    if config.mtp.keep_unused:
        written += [whole(name, tensor) for name, tensor in origin.unused.items()]
    with new_directory(Path(path), overwrite) as folder:
        write_directory(folder, config, names, written, generation or origin.generation, shard_size)
        if tokenizer is not None:
            tokenizer.save(folder)


@contextmanager
def new_directory(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """A temporary directory that becomes `path` on success and vanishes on failure.

    With `overwrite` a model's directory at `path` is moved away only when the new one is complete beside it.
    """
    if not path.exists():
        with atomic_dir(path) as folder:
            yield folder
        return
    if not overwrite:
        raise HubError(f"{path}: exists already; name a directory that does not")
    if not (path / CONFIG).exists():
        raise HubError(f"{path}: is not a model's directory (no {CONFIG}), so it is not replaced")
    fresh, old = (path.with_name(f".{path.name}.{word}") for word in ("new", "old"))
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    with atomic_dir(fresh) as folder:
        yield folder
    path.rename(old)
    fresh.rename(path)
    shutil.rmtree(old)


def write_directory(
    folder: Path,
    config: ModelConfig,
    layout: Layout,
    written: list[Entry],
    generation: dict[str, Any] | None,
    shard_size: int,
    progress: Progress | None = None,
) -> None:
    """Write config.json, generation_config.json and the weights into `folder`."""
    sizes: Counter[torch.dtype] = Counter()
    for entry in written:
        sizes[entry.dtype] += entry.size
    _write_json(folder / CONFIG, render_config(config, layout, sizes.most_common(1)[0][0]))
    _write_json(folder / GENERATION, generation or default_generation(config, layout))
    write(folder, written, shard_size, progress)


def default_generation(config: ModelConfig, layout: Layout) -> dict[str, Any]:
    """Sampling as the family's releases recommend: temperature 1, nucleus 0.95, no top-k."""
    return {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
        "do_sample": True,
        "temperature": 1.0,
        "top_p": 0.95,
        "top_k": 0 if layout is TRANSFORMERS else -1,  # no top-k, in the readers' different words
    }


def _fill_int8(model: Longcat, source: Source, device: torch.device, dtype: torch.dtype) -> None:
    """Fill a model that was built without memory, with large matrices in eight bits."""
    with torch.device("meta"):
        hollow(model, dtype)
    rounded = {*eight_bit_names(model)}
    state: dict[str, Tensor] = {}
    for ours, shape in tensors(source.config).items():
        if ours in rounded:
            read = read_int8(source.weights, ours, shape, device, dtype)
            state |= {f"{ours}.values": read.values, f"{ours}.scale": read.scale}
        else:
            state[ours] = _materialise(source, ours, shape, device, dtype)
    model.load_state_dict(state, assign=True)


def _materialise(
    source: Source, ours: str, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype | None
) -> Tensor:
    numbers = torch.Size(shape).numel()
    kind = cast(ours, source.weights.dtype(ours, 0, numbers), dtype)
    out = torch.empty(shape, dtype=torch.float32 if ours.endswith(CORRECTION) else kind, device=device)
    source.weights.fill(ours, 0, out.view(-1))
    return out


def _origin(source: Source, dtype: torch.dtype | None) -> Origin:
    """Runs that are wider in memory: mixed dtypes within one stack, and the router's correction bias."""
    weights = source.weights
    stored: dict[Run, torch.dtype] = {}
    for ours, shape in tensors(source.config).items():
        memory = cast(ours, weights.dtype(ours, 0, torch.Size(shape).numel()), dtype)
        for part in weights.parts(ours):
            kind = cast(ours, weights.stored(part), dtype)
            if kind != memory or ours.endswith(CORRECTION):
                stored[ours, part.start, part.count] = kind
    kept = source.weights.unused if source.config.mtp.keep_unused else ()
    unused = {name: source.checkpoint.load(name) for name in kept}
    return Origin(source.layout, stored, unused, source.generation())


def _write_json(file: Path, table: dict[str, Any]) -> None:
    file.write_text(json.dumps(table, indent=2) + "\n", "utf-8")
