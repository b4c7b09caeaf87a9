"""Where text comes from: files, folders, globs, the `datasets` library, this Python's own standard library."""

from __future__ import annotations

import glob
import os
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from homegrown.data.documents import Document, Skipped, from_text
from homegrown.data.errors import CorpusError
from homegrown.data.readers import JSONL_SUFFIXES, PARQUET_SUFFIXES, reader_for

STDLIB = "stdlib"
HUB_PREFIX = "hf:"
STDLIB_EXCLUDED = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3", "__pycache__"})
"""Folders that are no part of the standard library's own sources: installed packages, tests and their data."""


class Corpus(Protocol):
    """A source of documents that can be read more than once, in the same order each time."""

    @property
    def name(self) -> str:
        """What the user called it."""

    @property
    def text_bytes(self) -> int | None:
        """Bytes of text to expect, for a progress bar; None if only reading would tell."""

    def __iter__(self) -> Iterator[Document | Skipped]:
        """Its documents, and a note for everything left out."""


def open_corpus(spec: str, *, extensions: Sequence[str] = (), text_field: str = "text") -> Corpus:
    """The corpus that `spec` names.

    Args:
        spec: `stdlib`; a folder, file or glob; or `hf:NAME[:CONFIG][@SPLIT]` for the `datasets` library.
        extensions: in folders, take only files that end so (".py"); all files if empty.
        text_field: the field or column that holds the text in JSON lines, Parquet and `datasets`.

    Raises:
        CorpusError: there is nothing of that name, or a library it needs is not installed.
    """
    if spec == STDLIB:
        return stdlib_corpus()
    if spec.startswith(HUB_PREFIX):
        return HubCorpus(spec, text_field)
    return FileCorpus(spec, _files_of(spec, extensions), text_field)


def stdlib_corpus() -> FileCorpus:
    """The running interpreter's standard library, its Python sources without tests: real text on every machine."""
    root = Path(sysconfig.get_path("stdlib"))
    files, unreadable = _walk(root, (".py",), STDLIB_EXCLUDED)
    if not files:
        raise CorpusError(
            f"{root}: this Python ships no sources of its standard library; name a folder of text instead"
        )
    named = [(f"{STDLIB}/{path.relative_to(root).as_posix()}", path) for path in files]
    return FileCorpus(STDLIB, FileList(named, unreadable))


@dataclass(frozen=True)
class FileList:
    """The files of a corpus in order, each with the name its documents go by, and the folders that refused."""

    files: list[tuple[str, Path]]
    unreadable: list[Skipped]


class FileCorpus:
    """Files of any mix of kinds, read one after the other."""

    def __init__(self, name: str, listed: FileList, text_field: str = "text") -> None:
        self.name = name
        self._listed = listed
        self._text_field = text_field

    @property
    def text_bytes(self) -> int | None:
        """The files' sizes, if all are plain text."""
        if any(path.name.lower().endswith(JSONL_SUFFIXES + PARQUET_SUFFIXES) for _, path in self._listed.files):
            return None
        return sum(_size(path) for _, path in self._listed.files)

    def __iter__(self) -> Iterator[Document | Skipped]:
        yield from self._listed.unreadable
        for name, path in self._listed.files:
            yield from reader_for(path)(path, name, self._text_field)


class HubCorpus:
    """One split of a dataset of the `datasets` library, streamed."""

    def __init__(self, spec: str, text_field: str = "text") -> None:
        self.name = spec
        path, _, self._split = spec.removeprefix(HUB_PREFIX).partition("@")
        self._path, _, self._config = path.partition(":")
        self._text_field = text_field
        if not self._path:
            raise CorpusError(f"{spec!r}: write it as hf:NAME, hf:NAME:CONFIG or hf:NAME:CONFIG@SPLIT")
        try:
            import datasets
        except ImportError:
            raise CorpusError(f'{spec}: needs the datasets library: pip install "homegrown-lm[datasets]"') from None
        self._load = datasets.load_dataset

    @property
    def text_bytes(self) -> int | None:
        """Unknown before it is read."""
        return None

    def __iter__(self) -> Iterator[Document | Skipped]:
        for number, row in enumerate(self._rows(), start=1):
            if number == 1 and self._text_field not in row:
                raise CorpusError(
                    f"{self.name}: no text field {self._text_field!r}; there are: {', '.join(row)} "
                    "(choose with --text-field)"
                )
            yield from_text(f"{self.name}:{number}", row.get(self._text_field))

    def _rows(self) -> Iterator[dict[str, Any]]:
        try:
            yield from self._load(self._path, self._config or None, split=self._split or "train", streaming=True)
        except Exception as error:  # whatever the library, the network or the dataset's own code raises
            raise CorpusError(f"{self.name}: cannot be read: {error}") from error


def _files_of(spec: str, extensions: Sequence[str]) -> FileList:
    path = Path(spec).expanduser()
    if path.is_dir():
        files, unreadable = _walk(path, tuple(extensions), frozenset())
        if not files and not unreadable:
            wanted = f" that end in {', '.join(extensions)}" if extensions else ""
            raise CorpusError(f"{spec}: no files{wanted} in this folder (hidden ones do not count)")
        return FileList([(file.as_posix(), file) for file in files], unreadable)
    if path.exists():
        return FileList([(spec, path)], [])
    if glob.has_magic(spec):
        matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True))  # noqa: PTH207 (Path.glob refuses absolute patterns)
        files = [match for match in matches if match.is_file()]
        if not files:
            raise CorpusError(f"{spec}: no file matches this pattern")
        return FileList([(file.as_posix(), file) for file in files], [])
    raise CorpusError(f"{spec}: no such file or folder (nor is it {STDLIB!r} or {HUB_PREFIX}NAME)")


def _walk(root: Path, extensions: tuple[str, ...], excluded: frozenset[str]) -> tuple[list[Path], list[Skipped]]:
    """Files below `root` in an order that no file system decides, without hidden files and folders."""
    files: list[Path] = []
    unreadable: list[Skipped] = []

    def refuse(error: OSError) -> None:
        unreadable.append(Skipped(str(error.filename), "unreadable", error.strerror or str(error)))

    for folder, below, names in os.walk(root, onerror=refuse):
        below[:] = [name for name in below if name not in excluded and not name.startswith(".")]
        files += [
            Path(folder, name) for name in names if not name.startswith(".") and name.endswith(extensions or ("",))
        ]
    return sorted(files), sorted(unreadable, key=lambda skipped: skipped.source)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
