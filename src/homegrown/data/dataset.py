"""A dataset of tokens: shards of two splits, their tokenizer, and a fingerprint over all of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from homegrown.data.errors import DatasetError
from homegrown.data.shards import FileRecord, ShardRecord, Split, token_dtype
from homegrown.tokenizer import Tokenizer

MANIFEST = "dataset.json"
TOKENIZER_DIR = "tokenizer"
SPLITS = ("train", "held")
SOURCES = "sources.jsonl"
FORMAT = 1

_CHUNK = 2**22


@dataclass(frozen=True, kw_only=True)
class Content:
    """What the fingerprint covers."""

    format: int
    vocab_size: int
    bos_id: int
    eos_id: int
    tokenizer: str
    """The tokenizer's digest."""
    splits: dict[str, list[ShardRecord]]
    files: dict[str, FileRecord]
    """Every shard and tokenizer file, by path below the dataset."""

    def fingerprint(self) -> str:
        """SHA-256 of this table in canonical JSON, and so of all the files in it."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """`dataset.json`."""

    fingerprint: str
    content: Content
    provenance: dict[str, Any] = field(default_factory=dict)
    """Corpora, split, what was left out: for people, not part of the fingerprint."""


class TokenDataset:
    """A directory that `homegrown data` wrote, opened for reading."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.fingerprint = manifest.fingerprint
        """Equal fingerprints mean equal tokens in equal order, from equal tokenizers."""
        self.provenance = manifest.provenance
        self.vocab_size = manifest.content.vocab_size
        self._content = manifest.content
        self.train = self._split("train")
        self.held = self._split("held")

    @classmethod
    def open(cls, path: str | Path, fingerprint: str | None = None) -> TokenDataset:
        """Open a dataset; checks its manifest and the sizes of its files, but reads none of them (see `verify`).

        Args:
            path: the directory.
            fingerprint: what it must be, for a run that goes on: another dataset is refused.

        Raises:
            DatasetError: no dataset there, damaged, or not the one expected.
        """
        path = Path(path)
        manifest = _read_manifest(path / MANIFEST)
        if manifest.content.fingerprint() != manifest.fingerprint:
            raise DatasetError(f"{path / MANIFEST}: the fingerprint does not fit the rest of the file: it was edited")
        for name, record in manifest.content.files.items():
            _check_size(path / name, record)
        if fingerprint is not None and fingerprint != manifest.fingerprint:
            raise DatasetError(
                f"{path}: this is another dataset (fingerprint {manifest.fingerprint[:12]}) than the one expected "
                f"({fingerprint[:12]}): it was written anew or changed"
            )
        return cls(path, manifest)

    def verify(self) -> None:
        """Read every file and compare it with its recorded hash.

        Raises:
            DatasetError: a file changed; the message names it.
        """
        for name, record in self._content.files.items():
            if hash_file(self.path / name) != record:
                raise DatasetError(f"{self.path / name}: its content changed since the dataset was written")

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the tokens."""
        return Tokenizer.from_dir(self.path / TOKENIZER_DIR)

    @property
    def bytes_per_token(self) -> float:
        """Bytes of training text a predicted token stands for.

        Every token but the BOS of each document is predicted (EOS too, which stands for no bytes), so mean nats a
        predicted token, divided by this and by ln 2, are bits a byte.
        """
        return self.train.bytes / (self.train.tokens - self.train.documents)

    def texts(self, split: Literal["train", "held"]) -> Iterator[bytes]:
        """The text of each document of a split as it was read, in UTF-8: tokens lose nothing.

        Raises:
            DatasetError: a text has another length than the document that was written.
        """
        tokenizer = self.tokenizer()
        documents = self.train if split == "train" else self.held
        for index in range(documents.documents):
            text = tokenizer.decode_bytes(documents.document(index)[1:-1].tolist())
            if len(text) != documents.document_bytes(index):
                raise DatasetError(
                    f"{self.path}: document {index} of {split} decodes to {len(text)} bytes, "
                    f"{documents.document_bytes(index)} were recorded"
                )
            yield text

    def sources(self, split: Literal["train", "held"]) -> Iterator[str]:
        """Where each document of a split came from, in order."""
        with (self.path / split / SOURCES).open("rb") as lines:
            yield from (msgspec.json.decode(line, type=str) for line in lines)

    def _split(self, name: str) -> Split:
        content = self._content
        return Split(self.path, name, content.splits[name], token_dtype(content.vocab_size), content.bos_id)


def hash_file(path: Path) -> FileRecord:
    """Size and SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    size = 0
    try:
        with path.open("rb") as file:
            while piece := file.read(_CHUNK):
                digest.update(piece)
                size += len(piece)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from None
    return FileRecord(size, digest.hexdigest())


def _read_manifest(path: Path) -> Manifest:
    try:
        table = msgspec.json.decode(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise DatasetError(f"{path}: no such file; `homegrown data CORPUS --out {path.parent}` writes one") from None
    except (OSError, msgspec.DecodeError) as error:
        raise DatasetError(f"{path}: cannot be read: {error}") from None
    try:
        written = table["content"]["format"]
    except (KeyError, TypeError):
        raise DatasetError(f"{path}: not the manifest of a token dataset") from None
    if written != FORMAT:
        raise DatasetError(f"{path}: format {written}, this version reads format {FORMAT}: write the dataset anew")
    try:
        manifest = msgspec.convert(table, Manifest)
    except msgspec.ValidationError as error:
        raise DatasetError(f"{path}: damaged: {error}") from None
    if set(manifest.content.splits) != set(SPLITS):
        raise DatasetError(f"{path}: damaged: its splits must be {' and '.join(SPLITS)}")
    return manifest


def _check_size(path: Path, record: FileRecord) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DatasetError(f"{path}: cannot be opened: {error.strerror}") from None
    if size != record.bytes:
        raise DatasetError(f"{path}: has {size} bytes, {record.bytes} were written: it was changed or cut")
