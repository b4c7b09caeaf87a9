"""A worker's verdict that a rank computes wrong results, left where a supervisor finds it. Imports no torch."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from homegrown.config.atomic import write_text
from homegrown.parallel.flight import ATTEMPT

CORRUPT = 86
"""Exit status of a worker that leaves a verdict."""


@dataclass(frozen=True)
class Verdict:
    """A rank found faulty.

    Attributes:
        rank: the faulty one, which need not be the one that says so.
        by: the rank that says so.
        what: what was compared and how it differed, in a sentence.
        attempt: the incarnation of the job in which it was found.
    """

    rank: int
    by: int
    what: str
    attempt: int


def leave_verdict(run: Path, rank: int, by: int, what: str, attempt: int | None = None) -> Path:
    """Write RUN/faults/verdict-rank-N.json for the faulty rank N; the worker then exits with `CORRUPT`.

    The attempt is the one this process belongs to, if none is given.
    """
    verdict = Verdict(rank, by, what, int(os.environ.get(ATTEMPT, "0")) if attempt is None else attempt)
    path = run / "faults" / f"verdict-rank-{rank}.json"
    write_text(path, json.dumps(asdict(verdict), indent=1) + "\n")
    return path


def verdicts(run: Path, attempt: int) -> list[Verdict]:
    """The verdicts found in one incarnation of the job, by rank; notes that are no verdicts are passed over."""
    found = []
    for path in (run / "faults").glob("verdict-rank-*.json"):
        try:
            found.append(Verdict(**json.loads(path.read_text("utf-8"))))
        except (OSError, ValueError, TypeError):  # being replaced, or written by someone else
            continue
    return sorted((verdict for verdict in found if verdict.attempt == attempt), key=lambda verdict: verdict.rank)
