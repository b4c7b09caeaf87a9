"""What a corpus yields: documents, and a note for everything that is not one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    """One text and where it came from."""

    source: str
    text: str


@dataclass(frozen=True)
class Skipped:
    """Something that was left out, and why."""

    source: str
    reason: str
    """One of a few words, to count by."""
    detail: str = ""


def from_bytes(source: str, data: bytes) -> Document | Skipped:
    """The document in a file's bytes: UTF-8 without NUL bytes, taken as it is (no newline translation)."""
    if b"\0" in data:
        return Skipped(source, "binary", "contains NUL bytes")
    try:
        return from_text(source, data.decode())
    except UnicodeDecodeError as error:
        return Skipped(source, "not UTF-8", f"byte {error.start}: {error.reason}")


def from_text(source: str, text: object) -> Document | Skipped:
    """The document in a record's field."""
    if not isinstance(text, str):
        return Skipped(source, "not text", f"a value of type {type(text).__name__}")
    if not text.strip():
        return Skipped(source, "empty")
    if "\0" in text:
        return Skipped(source, "binary", "contains NUL characters")
    return Document(source, text)
