"""A batch: what it is, what it becomes, and the lines it is made of."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Generator, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from homegrown.serve.http.clients import Client

Status = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]
ENDED: frozenset[Status] = frozenset({"failed", "completed", "expired", "cancelled"})

MOST_LINES = 50_000
MOST_FAULTS = 20
"""Faults of an input file that are reported."""
WINDOWS = {"24h": 24 * 3600}


class Fault(msgspec.Struct, kw_only=True):
    """What is wrong with an input file, in a line (from 1), if in one."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class Batch(msgspec.Struct, kw_only=True):
    """A batch and how far it is; times are Unix seconds, 0 is not yet.

    Attributes:
        owner: whose tokens it uses.
        results, failures: ids that its files will have, known from the start, so that an end that was cut off can be
            done again.
        lasts: seconds that they are kept; 0 is for ever.
    """

    id: str
    owner: Client
    endpoint: str
    input_file_id: str
    completion_window: str
    results: str
    failures: str
    created_at: int
    expires_at: int
    lasts: int = 0
    metadata: dict[str, str] | None = None
    status: Status = "validating"
    faults: list[Fault] = []
    total: int = 0
    completed: int = 0
    failed: int = 0
    in_progress_at: int = 0
    finalizing_at: int = 0
    completed_at: int = 0
    failed_at: int = 0
    expired_at: int = 0
    cancelling_at: int = 0
    cancelled_at: int = 0
    has_results: bool = False
    has_failures: bool = False

    def become(self, status: Status, now: float) -> None:
        """Take a status, and note when."""
        self.status = status
        if status != "validating":
            setattr(self, f"{status}_at", int(now))

    def show(self) -> dict[str, Any]:
        """As the OpenAI API shows it."""
        times = ("in_progress", "expires", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
        same = ("id", "endpoint", "input_file_id", "completion_window", "status", "created_at", "metadata")
        return {
            "object": "batch",
            **{name: getattr(self, name) for name in same},
            **{f"{name}_at": getattr(self, f"{name}_at") or None for name in times},
            "errors": {"object": "list", "data": msgspec.to_builtins(self.faults)} if self.faults else None,
            "output_file_id": self.results if self.has_results else None,
            "error_file_id": self.failures if self.has_failures else None,
            "request_counts": {"total": self.total, "completed": self.completed, "failed": self.failed},
        }


class Line(msgspec.Struct):
    """A request of an input file."""

    custom_id: str
    method: str
    url: str
    body: dict[str, Any]


def new_batch_id() -> str:
    """An id that nobody can guess."""
    return f"batch_{secrets.token_hex(12)}"


def check(path: Path, endpoint: str, longest: int) -> tuple[int, list[Fault]]:
    """Read a whole input file. Waits for the disk.

    Args:
        path: the file.
        endpoint: what every line must ask.
        longest: bytes of a line.

    Returns:
        The number of requests, and what is wrong.
    """
    faults: list[Fault] = []
    ids: set[str] = set()
    for number, text in numbered(path, longest):
        fault = _fault(text, endpoint, longest, ids)
        if fault is not None:
            fault.line = number
            faults.append(fault)
        if len(ids) > MOST_LINES:
            faults.append(Fault(code="too_many_requests", message=f"a batch has at most {MOST_LINES} requests"))
            break
        if len(faults) >= MOST_FAULTS:
            break
    if not ids and not faults:
        faults.append(Fault(code="empty_file", message="the input file has no requests"))
    return len(ids), faults


def remaining(path: Path, longest: int, done: Collection[str]) -> Generator[Line, None, None]:
    """The requests of a checked file that are not done. Waits for the disk."""
    for _, text in numbered(path, longest):
        line = msgspec.json.decode(text, type=Line)
        if line.custom_id not in done:
            yield line


def numbered(path: Path, longest: int) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, numbered from 1; of a longer one, just enough to see that."""
    with path.open("rb") as file:
        number = 0
        while text := file.readline(longest + 2):
            number += 1
            if text.strip():
                yield number, text
            if len(text) > longest + 1 and not text.endswith(b"\n"):
                return


def _fault(text: bytes, endpoint: str, longest: int, ids: set[str]) -> Fault | None:
    if len(text.rstrip(b"\n")) > longest:
        return Fault(code="line_too_long", message=f"the line has more than {longest} bytes")
    try:
        line = msgspec.json.decode(text, type=Line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        reason = str(error) or "it is nested too deeply"
        return Fault(code="invalid_json_line", message=f"the line is not a request: {reason}")
    if line.custom_id in ids:
        return Fault(code="duplicate_custom_id", message="an earlier line has this custom_id", param="custom_id")
    ids.add(line.custom_id)
    if line.method != "POST":
        return Fault(code="invalid_method", message="the method must be POST", param="method")
    if line.url != endpoint:
        return Fault(code="mismatched_url", message=f"the url must be the batch's endpoint, {endpoint}", param="url")
    return None
