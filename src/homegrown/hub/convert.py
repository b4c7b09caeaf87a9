"""Directory to directory, tensor by tensor: no model is built, memory holds one piece of one tensor."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from homegrown.hub.directory import new_directory, write_directory
from homegrown.hub.layout import named_layout
from homegrown.hub.source import Source, open_source
from homegrown.hub.writer import SHARD_SIZE, Entry, Progress, entries

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)


def convert(
    source: str | Path,
    out: str | Path,
    *,
    layout: str | None = None,
    dtype: torch.dtype | None = None,
    shard_size: int = SHARD_SIZE,
    keep_unused: bool = False,
    progress: Progress | None = None,
) -> None:
    """Copy a directory, checked, into another layout, dtype or file size. The result appears whole or not at all.

    Args:
        source: directory in any layout of the family; eight-bit weights are dequantised.
        out: must not exist yet.
        layout: a name in `LAYOUTS`, `standard` for the one the architecture is published in, None for the source's.
        dtype: of the weights; None keeps each one's. The router's weights are never narrowed.
        shard_size: bytes after which a new file is begun.
        keep_unused: also copy tensors that no forward pass reads.
        progress: called as bytes are written.

    Raises:
        HubError: the source is not what it should be, `out` exists, or the layout cannot hold the model.
    """
    with open_source(Path(source), keep_unused) as opened:
        if layout == "standard":
            names = opened.standard
        else:
            names = opened.layout if layout is None else named_layout(layout, opened.config)
        written = entries(opened.config, names, opened.weights, dtype)
        if opened.config.mtp.keep_unused:
            written += [_verbatim(opened, name) for name in opened.weights.unused]
        with new_directory(Path(out)) as folder:
            write_directory(folder, opened.config, names, written, opened.generation(), shard_size, progress)
            for name in TOKENIZER_FILES:
                if (opened.folder / name).exists():
                    shutil.copyfile(opened.folder / name, folder / name)


def _verbatim(source: Source, name: str) -> Entry:
    stored = source.checkpoint.tensors[name]

    def fill(start: int, out: torch.Tensor) -> None:
        source.checkpoint.read(name, start, out)

    return Entry(name, stored.dtype, stored.shape, fill)
