"""Whether a rank fits its device, and what takes the room if it does not."""

from __future__ import annotations

import re

from homegrown.config import UsageError, UserError
from homegrown.train.dryrun.job import Rehearsal
from homegrown.train.dryrun.memory import Use

NAMED = 3
"""Uses that a refusal names."""
_UNITS = {"B": 1, "MB": 10**6, "GB": 10**9, "TB": 10**12, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_LESS = {
    "parameters": "more parallel.pp, tp, ep or embp spread parameters",
    "gradients": "more parallel.pp, tp, ep or embp spread gradients, and fewer micro-batches leave fewer sums of them",
    "optimizer": "more data parallelism, or a smaller parallel.ep, spreads optimizer state over more ranks",
    "activations": 'recompute = "full", more parallel.tp or cp, or a smaller data.micro_batch keep less',
    "backward": "more parallel.tp or cp, or a smaller data.micro_batch, make less at a time",
    "step": "more parallel.pp, tp, ep or embp leave less to exchange and update",
}


class FitError(UserError):
    """A rank needs more memory than its device has; the message says how much more, for what, and what would help."""


def check_fit(done: Rehearsal, memory: int) -> None:
    """Refuse a rank that does not fit into `memory` bytes.

    Raises:
        FitError: it does not.
    """
    if done.peak <= memory:
        return
    largest = sorted(done.at_peak.items(), key=lambda entry: -entry[1])[:NAMED]
    named = ", ".join(f"{use.component} {use.kind} {gib(size)}" for use, size in largest)
    raise FitError(
        f"rank {done.rank} needs {gib(done.peak)} and a device has {gib(memory)}: {gib(done.peak - memory)} too much; "
        f"the largest parts are {named}; {_LESS[_heaviest(done).kind]}"
    )


def parse_bytes(text: str) -> int:
    """`64GiB`, `80 GB`, `65536MiB` -> bytes.

    Raises:
        UsageError: anything else.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", text)
    if found is None or found[2] not in _UNITS or float(found[1]) <= 0:
        raise UsageError(
            f"memory {text!r}: write a positive number and a unit, such as 64GiB; units: {', '.join(_UNITS)}"
        )
    return int(float(found[1]) * _UNITS[found[2]])


def gib(size: int) -> str:
    """Bytes as GiB."""
    return f"{size / (1 << 30):,.2f} GiB"


def _heaviest(done: Rehearsal) -> Use:
    """The kind of memory that there is most of."""
    kinds: dict[str, int] = {}
    for use, size in done.at_peak.items():
        kinds[use.kind] = kinds.get(use.kind, 0) + size
    return Use(max(kinds, key=lambda kind: kinds[kind]), "all")
