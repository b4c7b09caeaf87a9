"""`homegrown tokenizer`: train a tokenizer alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from homegrown.cli.data import CorpusArguments, bars, warn_if_small
from homegrown.data import Intake, refuse_existing, tokenizer_for
from homegrown.tokenizer import Tokenizer

SUMMARY = "train a byte-level BPE tokenizer with the family's special tokens and chat template"

_MEASURED_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class TokenizerCommand(CorpusArguments):
    """Train a byte-level BPE tokenizer with the family's special tokens and chat template, in the files that
    transformers reads. Documents that `homegrown data` would hold out, given the same seed and fraction, are not used.

    homegrown tokenizer stdlib --out tokenizers/python-8k --vocab-size 8192

    homegrown data stdlib --tokenizer tokenizers/python-8k --out data/stdlib
    """

    out: Path
    """The directory to write; it must not exist."""
    vocab_size: int = 4096
    """Ids, special tokens and the 256 bytes included."""
    sample_mb: float = 32.0
    """Train on at most this much text, chosen by content hash."""


def run(argv: list[str]) -> int:
    """Train and save the tokenizer."""
    command = tyro.cli(TokenizerCommand, args=argv, prog="homegrown tokenizer")
    console = Console()
    refuse_existing(command.out)
    intake = command.intake()
    with bars(console) as progress:
        sample_bytes = int(command.sample_mb * 2**20)
        tokenizer = tokenizer_for(intake, command.vocab_size, sample_bytes=sample_bytes, progress=progress)
    tokenizer.save(command.out)
    warn_if_small(console, tokenizer, command.vocab_size)
    console.print(f"{tokenizer.vocab_size:,} ids{_held_out_ratio(intake, tokenizer)}; written to {command.out}")
    return 0


def _held_out_ratio(intake: Intake, tokenizer: Tokenizer) -> str:
    """How well it does on text it has not seen, if some is held out."""
    texts: list[str] = []
    size = 0
    for document in intake.documents():
        if document.held:
            texts.append(document.text)
            size += document.text_bytes
        if size >= _MEASURED_BYTES:
            break
    tokens = sum(map(len, tokenizer.encode_batch(texts, plain=True)))
    return f", {size / tokens:.2f} bytes a token on {size / 1e6:.1f} MB of held-out text" if tokens else ""
