"""`homegrown import`: any LongCat-family directory, checked and in standard form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from homegrown.cli.common import parse
from homegrown.cli.export import convert_visibly

SUMMARY = "check a LongCat-family directory from elsewhere and rewrite it in standard form"


@dataclass(frozen=True)
class Import:
    """Check a LongCat-family directory from elsewhere and rewrite it in standard form.

    Whatever its naming scheme, auxiliary files or eight-bit weights: the result has the published names of its
    architecture, 16- or 32-bit weights, no padding rows, and a config.json that says everything. Tensors stream from
    file to file; memory does not grow with the model.
    """

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")]
    """Directory with config.json and safetensors files."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Directory to write; must not exist."""
    shard_size: Annotated[str, tyro.conf.arg(metavar="SIZE")] = "5GB"
    """Size after which a new file is begun."""
    keep_unused: bool = False
    """Also copy tensors that no forward pass reads (the draft head's own embedding and n-gram tables)."""


def run(argv: list[str]) -> int:
    """Run the command; the exit status."""
    args = parse(Import, argv, "import")
    convert_visibly(
        args.source,
        args.out,
        layout="standard",
        dtype="same",
        shard_size=args.shard_size,
        keep_unused=args.keep_unused,
    )
    return 0
