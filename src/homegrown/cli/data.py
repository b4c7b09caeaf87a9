"""`homegrown data`: corpora to token shards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from homegrown.data import (
    CorpusError,
    Intake,
    Split,
    TokenDataset,
    open_corpus,
    refuse_existing,
    tokenizer_for,
    write_dataset,
)
from homegrown.tokenizer import Tokenizer

SUMMARY = "turn text into token shards that training reads, with a held-out part and a fingerprint"


@dataclass(frozen=True, kw_only=True)
class CorpusArguments:
    """Which text, and how it is split."""

    corpora: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="CORPUS [CORPUS ...]", help_behavior_hint="(required)"),
    ]
    """Where the text is, one or more of: `stdlib`, the Python standard library's own sources; a folder, a file or a
    quoted glob ("src/**/*.py"); `hf:NAME[:CONFIG][@SPLIT]`, a dataset of the datasets library (extra: datasets). Each
    file is a document, but JSON lines (.jsonl, .jsonl.gz) hold one a line and Parquet (extra: parquet) one a row.
    Hidden files and folders, .git and the like, are passed over."""
    extensions: tuple[str, ...] = ()
    """In folders, take only files that end in one of these, say --extensions .py .md; by default all files."""
    text_field: str = "text"
    """The field or column that holds the text in JSON lines, Parquet and datasets."""
    held_fraction: float = 0.05
    """Share of the documents held out, chosen by a hash of their content: neither training nor the tokenizer sees
    them."""
    seed: int = 0
    """Another seed holds out other documents."""
    keep_duplicates: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Keep documents whose content came before. Finding them takes about 100 bytes of memory a document."""

    def intake(self) -> Intake:
        """The documents that these arguments name."""
        if not self.corpora:
            raise CorpusError("no corpus named: give a folder, a file or stdlib")
        corpora = [open_corpus(spec, extensions=self.extensions, text_field=self.text_field) for spec in self.corpora]
        return Intake(corpora, held_fraction=self.held_fraction, seed=self.seed, deduplicate=not self.keep_duplicates)


@dataclass(frozen=True, kw_only=True)
class DataCommand(CorpusArguments):
    """Turn text into token shards: read corpora, drop duplicates and junk, hold a part out, train a tokenizer on the
    rest (or take one), encode, and seal it all with a fingerprint. The corpora may be larger than memory.

    homegrown data stdlib --out data/stdlib

    homegrown data ~/code notes.jsonl --extensions .py .md --out data/mine --vocab-size 16384
    """

    out: Path
    """The directory to write; it must not exist. It appears complete or not at all."""
    tokenizer: Path | None = None
    """Encode with the tokenizer in this directory (any LongCat-family or byte-level BPE directory) instead of
    training one."""
    vocab_size: int = 4096
    """Ids of the tokenizer to train, without --tokenizer."""
    sample_mb: float = 32.0
    """Train the tokenizer on at most this much text, chosen by content hash."""
    shard_tokens: int = 2**28
    """Tokens after which a new shard file begins."""


def run(argv: list[str]) -> int:
    """Write the dataset and say what is in it."""
    command = tyro.cli(DataCommand, args=argv, prog="homegrown data")
    console = Console()
    refuse_existing(command.out)
    intake = command.intake()
    with bars(console) as progress:
        if command.tokenizer is not None:
            tokenizer = Tokenizer.from_dir(command.tokenizer)
        else:
            sample_bytes = int(command.sample_mb * 2**20)
            tokenizer = tokenizer_for(intake, command.vocab_size, sample_bytes=sample_bytes, progress=progress)
        dataset = write_dataset(intake, tokenizer, command.out, shard_tokens=command.shard_tokens, progress=progress)
    if command.tokenizer is None:
        warn_if_small(console, tokenizer, command.vocab_size)
    _summarise(console, dataset)
    return 0


def _summarise(console: Console, dataset: TokenDataset) -> None:
    table = Table("", "documents", "text", "tokens", "bytes a token", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for split in (dataset.train, dataset.held):
        table.add_row(split.name, f"{split.documents:,}", _megabytes(split.bytes), f"{split.tokens:,}", _ratio(split))
    console.print(table)
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in dataset.provenance["left_out"].items())
    console.print(
        f"left out: {left_out or 'nothing'}" + (f" (listed in {dataset.path}/skipped.jsonl)" if left_out else "")
    )
    console.print(f"fingerprint: {dataset.fingerprint}")
    console.print(f'written to {dataset.path}; to train on it, set data.path = "{dataset.path}"', soft_wrap=True)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _ratio(split: Split) -> str:
    return f"{split.bytes / split.tokens:.2f}" if split.tokens else "-"


def warn_if_small(console: Console, tokenizer: Tokenizer, wanted: int) -> None:
    """Say so where the text had too few repetitions for the vocabulary asked for."""
    if tokenizer.vocab_size < wanted:
        console.print(
            f"[yellow]the text gives {tokenizer.vocab_size:,} ids, not {wanted:,}: "
            "no pair of tokens is left that occurs twice[/]"
        )


class Bars:
    """Shows stages as progress bars."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None
        self._documents = 0
        self._bytes = 0

    def stage(self, title: str, text_bytes: int | None) -> None:
        """Complete the current bar and begin one."""
        self.finish()
        self._documents = self._bytes = 0
        self._task = self._progress.add_task(title, total=text_bytes, detail="")

    def advance(self, documents: int, text_bytes: int) -> None:
        """Move the current bar."""
        if self._task is None:
            return
        self._documents += documents
        self._bytes += text_bytes
        detail = f"{self._documents:,} documents, {_megabytes(self._bytes)}"
        self._progress.update(self._task, advance=text_bytes, detail=detail)

    def finish(self) -> None:
        """Complete the current bar: what was left out never arrives."""
        if self._task is not None:
            done = self._bytes or 1
            self._progress.update(self._task, total=done, completed=done)


@contextmanager
def bars(console: Console) -> Iterator[Bars]:
    """Progress bars on `console` while the block runs."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        shown = Bars(progress)
        yield shown
        shown.finish()
