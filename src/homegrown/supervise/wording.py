"""How workers ended, in words."""

from __future__ import annotations

import signal as signals
from collections.abc import Iterable, Mapping

from homegrown.supervise.messages import Exited

REFUSED = 2
"""Exit status of a command that cannot be carried out as it was given: a restart would end alike."""


def plural(count: int, noun: str) -> str:
    """`1 step`, `2 steps`."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def listed(items: Iterable[str]) -> str:
    """`a, b, c`, or the first ones of many."""
    names = list(items)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def ending(exited: Exited) -> str:
    """How a worker ended: `rank 1 was killed by SIGKILL in step 12`."""
    digest = exited.digest
    where = "before its first step" if digest.step < 0 else f"in step {digest.step}"
    if digest.step >= 0 and digest.phase != "step":
        where = f"in phase {digest.phase!r} after step {digest.step}"
    how = f"ended with status {exited.code}" if exited.code >= 0 else f"was killed by {_signal(-exited.code)}"
    said = f": {exited.said}" if exited.said and exited.code > 0 else ""
    return f"rank {exited.rank} {how} {where}{said}"


def strangest(exits: Mapping[int, Exited]) -> tuple[str, tuple[int, ...], str]:
    """What the workers of a failed attempt died of: kind of fault, the ranks to blame, a sentence.

    One worker's death takes the others along, so that the first to be found dead is not always the cause. A verdict
    comes first; then a death by signal, but for SIGABRT, by which communication libraries end a process whose peer is
    gone; then the first that ended with an error, which accuses its slot of nothing.
    """
    bad = {rank: exited for rank, exited in exits.items() if exited.code}
    blames = {blame.rank: blame.what for exited in bad.values() for blame in exited.blames}
    if blames:
        text = "; ".join(f"rank {rank} computes wrong results: {what}" for rank, what in sorted(blames.items()))
        return "corrupt", tuple(sorted(blames)), text
    refused = [exited for exited in bad.values() if exited.code == REFUSED]
    if refused:
        return "refused", (), ending(refused[0])
    killed = [exited for exited in bad.values() if exited.code < 0 and -exited.code != signals.SIGABRT]
    if killed:
        return "killed", tuple(exited.rank for exited in killed), "; ".join(map(ending, killed[:4]))
    first = next(iter(bad.values()))
    return "failed", (first.rank,), ending(first)


def _signal(number: int) -> str:
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"signal {number}"
