"""`homegrown export`: a training checkpoint, or a Hugging Face directory, in a published layout, dtype or file size."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from homegrown.cli.common import console, parse
from homegrown.config import UsageError

SUMMARY = "write a Hugging Face directory in a published layout, dtype and file size"


@dataclass(frozen=True)
class Export:
    """Write a Hugging Face directory: from a training checkpoint, or from one in another layout, dtype or file size.

    Tensors stream from file to file; memory does not grow with the model.
    """

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")]
    """A run or one of its checkpoints; or a directory with config.json and safetensors files, in any layout of the
    LongCat family."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Directory to write; must not exist."""
    layout: Literal["same", "flash", "lite", "longcat", "transformers"] = "same"
    """Tensor names: as in SRC (of a run: as the family publishes such models), or as LongCat-Flash, Flash-Lite or
    LongCat-2.0 (and Lite-Sparse) are published, or as transformers' LongcatFlashForCausalLM loads them."""
    dtype: Literal["same", "float32", "bfloat16", "float16"] = "same"
    """Of the weights; `same` turns eight-bit ones into bfloat16, and is for a run what it trains in. The router is
    never narrowed."""
    shard_size: Annotated[str, tyro.conf.arg(metavar="SIZE")] = "5GB"
    """Size after which a new file is begun."""
    keep_unused: bool = False
    """Also copy tensors that no forward pass reads (the draft head's own embedding and n-gram tables)."""


def run(argv: list[str]) -> int:
    """Run the command; the exit status."""
    args = parse(Export, argv, "export")
    from homegrown.train.checkpoint import holds_checkpoints

    layout = None if args.layout == "same" else args.layout
    if not holds_checkpoints(args.source):
        convert_visibly(
            args.source,
            args.out,
            layout=layout,
            dtype=args.dtype,
            shard_size=args.shard_size,
            keep_unused=args.keep_unused,
        )
    elif args.keep_unused:
        raise UsageError(f"--keep-unused: {args.source} is a training checkpoint, which holds no unused tensors")
    else:
        _export_visibly(args.source, args.out, layout, args.dtype, args.shard_size)
    return 0


def _export_visibly(source: Path, out: Path, layout: str | None, dtype: str, shard_size: str) -> None:
    import torch

    from homegrown.hub import parse_size
    from homegrown.train.export import export_checkpoint

    with _shown_warnings(), _bar() as bar:
        task = bar.add_task(out.name, total=None)
        export_checkpoint(
            source,
            out,
            layout=layout,
            dtype=None if dtype == "same" else getattr(torch, dtype),
            shard_size=parse_size(shard_size),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    print(f"wrote {out}")


def convert_visibly(
    source: Path, out: Path, *, layout: str | None, dtype: str, shard_size: str, keep_unused: bool
) -> None:
    """Convert with a progress bar; arguments as for `homegrown.hub.convert`, dtype and size as the user writes them."""
    import torch  # not before the arguments are known to be right: help and mistakes come at once

    from homegrown.hub import convert, parse_size

    with _shown_warnings(), _bar() as bar:
        task = bar.add_task(out.name, total=None)
        convert(
            source,
            out,
            layout=layout,
            dtype=None if dtype == "same" else getattr(torch, dtype),
            shard_size=parse_size(shard_size),
            keep_unused=keep_unused,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    print(f"wrote {out}")


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


@contextmanager
def _shown_warnings() -> Iterator[None]:
    """Warnings as lines for people, below the bar."""
    with warnings.catch_warnings(record=True) as caught:
        try:
            yield
        finally:
            for warning in caught:
                console.print(
                    "[yellow]warning:[/yellow]", escape(str(warning.message)), highlight=False, soft_wrap=True
                )
