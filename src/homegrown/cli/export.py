"""`homegrown export`: a Hugging Face directory in another published layout, dtype or file size."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

SUMMARY = "write a Hugging Face directory in a published layout, dtype and file size"


@dataclass(frozen=True)
class Export:
    """Write a Hugging Face directory in another published layout, dtype or file size.

    Tensors stream from file to file; memory does not grow with the model.
    """

    source: Annotated[Path, tyro.conf.Positional]
    """Directory with config.json and safetensors files, in any layout of the LongCat family."""
    out: Annotated[Path, tyro.conf.Positional]
    """Directory to write; must not exist."""
    layout: Literal["same", "flash", "lite", "longcat", "transformers"] = "same"
    """Tensor names: as in SRC, or as LongCat-Flash, Flash-Lite or LongCat-2.0 (and Lite-Sparse) are published, or as
    transformers' LongcatFlashForCausalLM loads them."""
    dtype: Literal["same", "float32", "bfloat16", "float16"] = "same"
    """Of the weights; eight-bit weights become bfloat16 at least, the router is never narrowed."""
    shard_size: str = "5GB"
    """Size after which a new file is begun."""
    keep_unused: bool = False
    """Also copy tensors that no forward pass reads (the draft head's own embedding and n-gram tables)."""


def run(argv: list[str]) -> int:
    """Run the command; the exit status."""
    args = tyro.cli(Export, args=argv, prog="homegrown export")
    return convert_visibly(
        args.source,
        args.out,
        layout=None if args.layout == "same" else args.layout,
        dtype=args.dtype,
        shard_size=args.shard_size,
        keep_unused=args.keep_unused,
    )


def convert_visibly(
    source: Path, out: Path, *, layout: str | None, dtype: str, shard_size: str, keep_unused: bool
) -> int:
    """Convert with a progress bar; the exit status. Errors are one sentence on standard error."""
    import torch

    from homegrown.hub import HubError, convert, parse_size

    console = Console(stderr=True)
    kind = None if dtype == "same" else getattr(torch, dtype)
    try:
        with _shown_warnings(console), _bar(console) as bar:
            task = bar.add_task(out.name, total=None)
            convert(
                source,
                out,
                layout=layout,
                dtype=kind,
                shard_size=parse_size(shard_size),
                keep_unused=keep_unused,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
    except (HubError, OSError) as error:
        console.print(f"[red]error:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        return 1
    print(f"wrote {out}")
    return 0


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not sys.stderr.isatty(),
    )


@contextmanager
def _shown_warnings(console: Console) -> Iterator[None]:
    from homegrown.hub import HubWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", HubWarning)
        try:
            yield
        finally:
            for warning in caught:
                text = escape(str(warning.message))
                console.print(f"[yellow]warning:[/yellow] {text}", highlight=False, soft_wrap=True)
