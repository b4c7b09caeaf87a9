"""Token shards on disk: written as a stream, read through a memory map.

A split is a folder of shards. Shard `00000` is two files, both little-endian:

- `00000.bin`: the tokens of its documents, uint16 (vocabularies up to 65,536) or uint32, one document after the other,
  each as BOS ... EOS;
- `00000.idx`: one row of two int64 a document: index of its first token in the shard, bytes of its text.

A document never spans two shards.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from homegrown.data.errors import DatasetError

Tokens = NDArray[np.unsignedinteger[Any]]
INDEX_DTYPE = np.dtype("<i8")


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The narrowest of uint16 and uint32 that holds every id below `vocab_size`."""
    return np.dtype("<u2") if vocab_size <= 2**16 else np.dtype("<u4")


@dataclass(frozen=True)
class FileRecord:
    """What a file's content must be."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class ShardRecord:
    """One shard of a split."""

    name: str
    """Path below the dataset, without suffix: `train/00000`."""
    tokens: int
    documents: int
    bytes: int
    """Text in UTF-8, special tokens not counted."""


class SplitWriter:
    """Writes the shards of one split; holds no more than one document.

    Args:
        root: the dataset's folder.
        split: the name of the split, a folder below it.
        dtype: of the tokens.
        shard_tokens: a shard that would grow beyond this is closed and a new one begun.
    """

    def __init__(self, root: Path, split: str, dtype: np.dtype[Any], shard_tokens: int) -> None:
        self._root = root
        self._split = split
        self._dtype = dtype
        self._shard_tokens = shard_tokens
        self._shard: _OpenShard | None = None
        self.shards: list[ShardRecord] = []
        self.files: dict[str, FileRecord] = {}
        (root / split).mkdir()

    def add(self, tokens: Tokens, text_bytes: int) -> None:
        """Append one document, special tokens included."""
        if self._shard is not None and self._shard.tokens + len(tokens) > self._shard_tokens:
            self.close()
        if self._shard is None:
            self._shard = _OpenShard(self._root, f"{self._split}/{len(self.shards):05d}")
        self._shard.add(tokens.astype(self._dtype, copy=False), text_bytes)

    def close(self) -> None:
        """End the current shard; `shards` and `files` are then complete."""
        if self._shard is not None:
            record, files = self._shard.close()
            self.shards.append(record)
            self.files |= files
            self._shard = None

    def abort(self) -> None:
        """Close the files without finishing them."""
        if self._shard is not None:
            self._shard.abort()
            self._shard = None


class _OpenShard:
    def __init__(self, root: Path, name: str) -> None:
        self._name = name
        self._bin = _HashedFile(root / f"{name}.bin")
        self._idx = _HashedFile(root / f"{name}.idx")
        self.tokens = 0
        self._documents = 0
        self._bytes = 0

    def add(self, tokens: Tokens, text_bytes: int) -> None:
        self._idx.write(np.array([self.tokens, text_bytes], INDEX_DTYPE).tobytes())
        self._bin.write(tokens.tobytes())
        self.tokens += len(tokens)
        self._documents += 1
        self._bytes += text_bytes

    def close(self) -> tuple[ShardRecord, dict[str, FileRecord]]:
        files = {f"{self._name}.bin": self._bin.close(), f"{self._name}.idx": self._idx.close()}
        return ShardRecord(self._name, self.tokens, self._documents, self._bytes), files

    def abort(self) -> None:
        self._bin.close()
        self._idx.close()


class _HashedFile:
    """A file that knows its hash when it is closed, without being read again."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=2**20)
        self._hash = hashlib.sha256()
        self._bytes = 0

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self._bytes += len(data)

    def close(self) -> FileRecord:
        self._file.close()
        return FileRecord(self._bytes, self._hash.hexdigest())


class Split:
    """The documents of a split, and the same as one long stream of tokens.

    Files are mapped when they are first needed; nothing is loaded.

    Args:
        root: the dataset's folder.
        records: its shards, in order.
        dtype: of the tokens.
        bos_id: the token that starts each document.
    """

    def __init__(self, root: Path, name: str, records: list[ShardRecord], dtype: np.dtype[Any], bos_id: int) -> None:
        self.name = name
        self.bos_id = bos_id
        self._root = root
        self._dtype = dtype
        self._records = records
        self._first_token = [0, *accumulate(record.tokens for record in records)]
        self._first_document = [0, *accumulate(record.documents for record in records)]
        self.tokens: int = self._first_token[-1]
        """All tokens, BOS and EOS included."""
        self.documents: int = self._first_document[-1]
        self.bytes: int = sum(record.bytes for record in records)
        """Text in UTF-8, special tokens not counted."""

    def document(self, index: int) -> Tokens:
        """The tokens of a document, `[BOS, ..., EOS]`: a read-only view into the shard."""
        shard, row = self._locate(index)
        starts = self._indexes[shard]
        end = int(starts[row + 1, 0]) if row + 1 < len(starts) else self._records[shard].tokens
        return self._shards[shard][int(starts[row, 0]) : end]

    def document_bytes(self, index: int) -> int:
        """UTF-8 bytes of a document's text."""
        shard, row = self._locate(index)
        return int(self._indexes[shard][row, 1])

    def copy_into(self, row: NDArray[np.int64], start: int) -> None:
        """Fill `row` with the stream's tokens from `start` on; after the last token the first one follows."""
        filled = 0
        while filled < len(row):
            position = (start + filled) % self.tokens
            shard = bisect_right(self._first_token, position) - 1
            local = position - self._first_token[shard]
            piece = self._shards[shard][local : local + len(row) - filled]
            row[filled : filled + len(piece)] = piece
            filled += len(piece)

    def _locate(self, index: int) -> tuple[int, int]:
        if not 0 <= index < self.documents:
            raise IndexError(f"document {index}: the {self.name} split has {self.documents}")
        shard = bisect_right(self._first_document, index) - 1
        return shard, index - self._first_document[shard]

    @cached_property
    def _shards(self) -> list[Tokens]:
        return [_mapped(self._root / f"{record.name}.bin", self._dtype, record.tokens) for record in self._records]

    @cached_property
    def _indexes(self) -> list[NDArray[np.int64]]:
        return [
            _mapped(self._root / f"{record.name}.idx", INDEX_DTYPE, 2 * record.documents).reshape(-1, 2)
            for record in self._records
        ]


def _mapped(path: Path, dtype: np.dtype[Any], length: int) -> NDArray[Any]:
    try:
        # A plain array over the map: slicing `np.memmap` itself costs microseconds each time.
        return np.memmap(path, dtype, mode="r", shape=(length,)).view(np.ndarray)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: cannot be mapped: {error}") from None
