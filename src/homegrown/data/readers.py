"""One reader a kind of file: plain text, JSON lines, Parquet. Records stream; only one is in memory at a time."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from homegrown.data.documents import Document, Skipped, from_bytes, from_text
from homegrown.data.errors import CorpusError

Reader = Callable[[Path, str, str], Iterator[Document | Skipped]]
"""(path, name for sources, text field) -> documents and notes."""

JSONL_SUFFIXES = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")
PARQUET_SUFFIXES = (".parquet",)


def reader_for(path: Path) -> Reader:
    """The reader for a file, by its suffix; anything unknown is plain text."""
    name = path.name.lower()
    if name.endswith(JSONL_SUFFIXES):
        return read_jsonl
    if name.endswith(PARQUET_SUFFIXES):
        return read_parquet
    return read_text


def read_text(path: Path, name: str, field: str) -> Iterator[Document | Skipped]:
    """The whole file as one document."""
    del field
    try:
        data = path.read_bytes()
    except OSError as error:
        yield _unreadable(name, error)
    else:
        yield from_bytes(name, data)


def read_jsonl(path: Path, name: str, field: str) -> Iterator[Document | Skipped]:
    """One document a line, gzipped or not.

    Raises:
        CorpusError: the first record has no `field`, which means that the field's name is wrong.
    """
    first = True
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opener(path, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                source = f"{name}:{number}"
                record = _parse(line)
                if isinstance(record, dict) and field in record:
                    yield from_text(source, record[field])
                elif isinstance(record, dict):
                    if first:
                        raise CorpusError(_no_field(source, field, list(record)))
                    yield Skipped(source, "no text field", f"no {field!r}")
                else:
                    yield Skipped(source, "not a JSON object")
                first = False
    except (OSError, EOFError, zlib.error) as error:
        yield _unreadable(name, error)


def read_parquet(path: Path, name: str, field: str) -> Iterator[Document | Skipped]:
    """One document a row.

    Raises:
        CorpusError: pyarrow is not installed, or the table has no column `field`.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise CorpusError(f'{path}: reading Parquet needs pyarrow: pip install "homegrown-lm[parquet]"') from None
    row = 0
    try:
        with parquet.ParquetFile(path) as file:
            if field not in file.schema_arrow.names:
                raise CorpusError(_no_field(name, field, file.schema_arrow.names))
            for batch in file.iter_batches(batch_size=256, columns=[field]):
                for text in batch.column(0).to_pylist():
                    row += 1
                    yield from_text(f"{name}:{row}", text)
    except (OSError, pyarrow.ArrowException) as error:
        yield _unreadable(f"{name}:{row}" if row else name, error)


def _parse(line: bytes) -> object:
    try:
        return msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _no_field(source: str, field: str, present: list[str]) -> str:
    return f"{source}: no text field {field!r}; there are: {', '.join(present) or 'none'} (choose with --text-field)"


def _unreadable(source: str, error: Exception) -> Skipped:
    return Skipped(source, "unreadable", str(getattr(error, "strerror", None) or error))
