"""Whether ranks would meet: every collective of a group is to be issued by all its members, in one order, with sizes
that match."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, pairwise, zip_longest

from homegrown.parallel.layout import Layout
from homegrown.train.dryrun.wire import Message

Trace = Sequence[Message]
"""Everything a rank sent and received in a step, in order."""


def disagreements(traces: Mapping[int, Trace]) -> list[str]:
    """What would go wrong between ranks whose traces are known: one sentence for each pair and group, empty for
    nothing.

    Args:
        traces: by rank. Of a group of many, those members whose traces are there are compared.
    """
    found = []
    for ranks, streams in _by_group(traces).items():
        for one, other in combinations(sorted(streams), 2):
            fault = _compare(ranks, one, streams[one], other, streams[other])
            if fault:
                found.append(fault)
    for one, other in combinations(sorted(traces), 2):
        for sender, receiver in ((one, other), (other, one)):
            fault = _compare_pair(sender, traces[sender], receiver, traces[receiver])
            if fault:
                found.append(fault)
    return found


def witnesses(layout: Layout, rank: int) -> list[int]:
    """Ranks whose traces, together, show every group of `rank` with at least two members: its neighbour in every group,
    and the ranks at its place in every stage."""
    chosen = {rank, *layout.members("pp", rank)}
    for kind in ("tp", "cp", "data", "ep", "expert_replicas", "embp", "row_replicas"):
        members = layout.members(kind, rank)
        chosen.add(members[(members.index(rank) + 1) % len(members)])
    chosen |= {layout.world - 1, layout.world - layout.tokens, layout.tokens - 1}
    return sorted(chosen)


def _by_group(traces: Mapping[int, Trace]) -> dict[tuple[int, ...], dict[int, list[Message]]]:
    """Collectives by group and rank. Kinds with the same members share one line, on which all of them must queue."""
    groups: dict[tuple[int, ...], dict[int, list[Message]]] = defaultdict(dict)
    for rank, trace in traces.items():
        for message in trace:
            if message.peer < 0:
                groups[message.ranks].setdefault(rank, []).append(message)
    for ranks, streams in groups.items():
        # Somebody who is a member and never calls is missing as much as one who calls too seldom.
        for rank in traces.keys() & set(ranks):
            streams.setdefault(rank, [])
    return groups


def _compare(
    ranks: tuple[int, ...], one: int, ours: Sequence[Message], other: int, theirs: Sequence[Message]
) -> str | None:
    here, there = ranks.index(one), ranks.index(other)
    for number, (mine, yours) in enumerate(zip_longest(ours, theirs), start=1):
        where = f"collective {number} of {_group(mine or yours, ranks)}"
        if mine is None or yours is None:
            late, early = (one, other) if mine is None else (other, one)
            return f"{where}: rank {early} calls {(mine or yours).op}, rank {late} makes no more calls"
        if mine.op != yours.op:
            return f"{where}: rank {one} calls {mine.op}, rank {other} calls {yours.op}"
        for sender, given, giver, receiver, taken, taker in (
            (one, mine, there, other, yours, here), (other, yours, here, one, mine, there),
        ):  # fmt: skip
            sent, received = _part(given.send, giver), _part(taken.receive, taker)
            if sent != received:
                return (
                    f"{where} ({mine.op}): rank {sender} sends {sent} bytes to rank {receiver}, which expects "
                    f"{received}"
                )
    return None


def _compare_pair(sender: int, sending: Trace, receiver: int, receiving: Trace) -> str | None:
    sent = [message for message in sending if message.op == "send" and message.peer == receiver]
    taken = [message for message in receiving if message.op == "receive" and message.peer == sender]
    for number, (given, got) in enumerate(zip_longest(sent, taken), start=1):
        if given is None or got is None or given.send != got.receive:
            gone = "nothing is sent" if given is None else f"{given.send} bytes are sent"
            due = "nothing is expected" if got is None else f"{got.receive} are expected"
            return f"transfer {number} from rank {sender} to rank {receiver}: {gone}, {due}"
    return None


def _part(sizes: tuple[int, ...] | int, place: int) -> int:
    return sizes if isinstance(sizes, int) else sizes[place]


def _group(message: Message, ranks: tuple[int, ...]) -> str:
    return f"group {message.group} ({abbreviated(ranks)})"


def abbreviated(ranks: Sequence[int]) -> str:
    """Ranks as a short text: `0-7`, `0, 8, ..., 504 (64)`, `3, 5`."""
    if len(ranks) == 1:
        return str(ranks[0])
    steps = {after - before for before, after in pairwise(ranks)}
    if len(ranks) <= 3:
        return ", ".join(map(str, ranks))
    if steps == {1}:
        return f"{ranks[0]}-{ranks[-1]}"
    return f"{ranks[0]}, {ranks[1]}, ..., {ranks[-1]} ({len(ranks)})"


def grouped(trace: Trace) -> Iterator[tuple[tuple[str, str, int], list[Message]]]:
    """A trace by operation, kind of group and number of members, in the order in which they first appear."""
    groups: dict[tuple[str, str, int], list[Message]] = defaultdict(list)
    for message in trace:
        groups[message.op, message.group, len(message.ranks)].append(message)
    yield from groups.items()
