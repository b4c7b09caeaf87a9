"""The hash chain itself: what a record is, how its text is made, and how a file of records is checked.

Each line of a ledger is one record as canonical JSON (sorted keys, no spaces, ASCII). `hash` is the SHA-256
of the record without `hash`, and `prev` is the hash of the record before, so a change anywhere breaks the
chain from there on. What a chain cannot show by itself is that whole records are missing at its end; whoever
must exclude that keeps the last hash elsewhere (checkpoints and the report do).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from homegrown.config import UserError
from homegrown.ledger.values import dumps, loads

GENESIS = hashlib.sha256(b"homegrown ledger, version 1").hexdigest()
"""`prev` of the first record: it binds a chain to this format."""


class LedgerError(UserError):
    """A ledger that cannot be trusted or used; the message names the file, the line and the reason."""


class TornTailError(LedgerError):
    """The last line was being written when the process stopped; everything before it is intact.

    Attributes:
        offset: bytes of the file that are intact.
        lost: the bytes after them.
    """

    def __init__(self, message: str, offset: int, lost: bytes):
        super().__init__(message)
        self.offset = offset
        self.lost = lost


@dataclass(frozen=True)
class Record:
    """One event of a run."""

    seq: int
    """Position in the chain, from 0."""
    time: str
    """When it was appended: UTC, ISO 8601 with microseconds."""
    kind: str
    payload: dict[str, Any] = field(compare=False)
    """Its details. The hash stands for them in comparisons, which NaN would spoil."""
    prev: str
    """Hash of the record before; `GENESIS` for the first."""
    hash: str
    """SHA-256, hexadecimal, of the canonical JSON of everything above."""

    @classmethod
    def make(cls, seq: int, time: str, kind: str, payload: dict[str, Any], prev: str) -> Record:
        """A record with the hash that its content has; its payload is a copy, as reading the file gives it."""
        payload = loads(dumps({"payload": payload}, sort_keys=True).encode("ascii"))["payload"]
        body = {"seq": seq, "time": time, "kind": kind, "payload": payload, "prev": prev}
        return cls(seq, time, kind, payload, prev, _digest(body))

    def line(self) -> bytes:
        """The record as its line of the file, newline included."""
        return _line(asdict(self))


def walk(path: Path) -> Iterator[Record]:
    """Yield the records of a ledger one by one, each checked against the chain before it is yielded.

    Raises:
        TornTailError: the last line has no newline or is not JSON: the writer was stopped in the middle of it.
        LedgerError: no such file, or a damaged line.
    """
    if not path.is_file():
        raise LedgerError(f"{path}: no such ledger")
    size = path.stat().st_size
    seq, prev, offset = 0, GENESIS, 0
    with path.open("rb") as handle:
        for line in handle:
            end = offset + len(line)
            try:
                table = _parse(line)
            except ValueError as error:
                if end >= size:
                    message = f"{path}, line {seq + 1}: torn, the last {len(line)} bytes are no record ({error})"
                    raise TornTailError(message, offset, line) from None
                raise LedgerError(f"{path}, line {seq + 1}: {error}") from None
            fault = _fault(table, line, seq, prev)
            if fault:
                raise LedgerError(f"{path}, line {seq + 1}: {fault}")
            record = Record(**table)
            yield record
            seq, prev, offset = seq + 1, record.hash, end


def _parse(line: bytes) -> Any:
    if not line.endswith(b"\n"):
        raise ValueError("it has no newline")
    return loads(line)


def _fault(table: Any, line: bytes, seq: int, prev: str) -> str:
    """What is wrong with a parsed line as record number `seq` after the hash `prev`; empty if nothing is."""
    names = [item.name for item in fields(Record)]
    if not isinstance(table, dict) or sorted(table) != sorted(names):
        return f"not a record, which has exactly the fields {', '.join(names)}"
    if not isinstance(table["payload"], dict):
        return "not a record, whose payload is an object"
    if _line(table) != line:
        return "not written by this package: the text is not canonical JSON"
    body = {name: value for name, value in table.items() if name != "hash"}
    if table["hash"] != _digest(body):
        return "the content does not match its hash: it was changed after it was written"
    if table["seq"] != seq:
        return f"record number {table['seq']} where number {seq} belongs: lines are missing, repeated or moved"
    if table["prev"] != prev:
        return "does not continue the record before it: the two are from different chains"
    return ""


def _line(table: dict[str, Any]) -> bytes:
    return dumps(table, sort_keys=True).encode("ascii") + b"\n"


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(dumps(body, sort_keys=True).encode("ascii")).hexdigest()
