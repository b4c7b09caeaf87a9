"""What a dry run found, as tables for a person and as plain values for a file."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group as Stack
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from homegrown.parallel.layout import KINDS as GROUP_KINDS
from homegrown.train.dryrun.agreement import abbreviated, grouped
from homegrown.train.dryrun.components import COMPONENTS
from homegrown.train.dryrun.job import Rehearsal
from homegrown.train.dryrun.memory import KINDS, Use
from homegrown.train.dryrun.meter import PHASES

GIB = 1 << 30
HOST_SHOWN = 1 << 26
"""Host memory that is worth a word, in bytes: rows of tokens are below, what is moved there is above."""


def show(done: Rehearsal, memory: int) -> RenderableType:
    """Everything about one rank.

    Args:
        done: what its step did.
        memory: bytes of the device; 0 if nobody said.
    """
    room = f" ({done.peak / memory:.0%} of {memory / GIB:,.1f} GiB)" if memory else ""
    host = f"; on the host {done.host_peak / GIB:,.2f}" if done.host_peak >= HOST_SHOWN else ""
    sections = {
        headline(done): groups_table(done),
        f"memory when most is in use, GiB: {done.peak / GIB:,.2f}{room}{host}": bytes_table(done),
        "traffic of one step": traffic_table(done),
        "floating-point operations of one step, TFLOP": flops_table(done),
    }
    shown: list[RenderableType] = []
    for title, table in sections.items():
        shown += [Text(f"\n{title}", "bold", no_wrap=True, overflow="ignore"), table]
    return Stack(*shown)


def headline(done: Rehearsal) -> str:
    """Where a rank stands."""
    layout, rank = done.layout, done.rank
    place = ", ".join(f"{name} {index}" for name, index in layout.place(rank)._asdict().items())
    layers = ", ".join(_layers(part.layers) for part in layout.parts_of(rank))
    return f"rank {rank} of {layout.describe()}: {place}; layers {layers}"


def groups_table(done: Rehearsal) -> Table:
    """The groups that a rank belongs to."""
    table = Table()
    table.add_column("group", no_wrap=True)
    table.add_column("ranks", justify="right")
    table.add_column("members")
    for kind in GROUP_KINDS:
        members = done.layout.members(kind, done.rank)
        if len(members) > 1:
            table.add_row(kind, f"{len(members):,}", abbreviated(members))
    return table


def bytes_table(done: Rehearsal) -> Table:
    """Memory at the moment when most of it is in use, by component and kind; and what the forward pass of a micro-batch
    keeps."""
    table = Table()
    table.add_column("", no_wrap=True)
    kinds = [kind for kind in KINDS if any(use.kind == kind for use in done.at_peak)]
    for heading in (*kinds, "all", "one pass"):
        table.add_column(heading, justify="right", no_wrap=True)
    for component in components(done.at_peak):
        sizes = [done.at_peak.get(Use(kind, component), 0) for kind in kinds]
        table.add_row(component, *map(_gib, (*sizes, sum(sizes), done.kept.get(component, 0))))
    table.add_section()
    sizes = [of_kind(done.at_peak, kind) for kind in kinds]
    table.add_row("all", *map(_gib, (*sizes, done.peak, sum(done.kept.values()))))
    return table


def traffic_table(done: Rehearsal) -> Table:
    """What the rank sends in a step, by operation and group."""
    table = Table()
    for heading in ("operation", "group"):
        table.add_column(heading, no_wrap=True)
    for heading in ("ranks", "calls", "sent, MiB", "largest, MiB"):
        table.add_column(heading, justify="right")
    for (op, group, ranks), messages in grouped(done.messages):
        sent = [message.sent(done.rank) for message in messages]
        figures = (f"{sum(sent) / (1 << 20):,.2f}", f"{max(sent) / (1 << 20):,.2f}")
        table.add_row(op, group, f"{ranks:,}", f"{len(messages):,}", *figures)
    table.add_section()
    total = sum(message.sent(done.rank) for message in done.messages)
    table.add_row("all", "", "", f"{len(done.messages):,}", f"{total / (1 << 20):,.2f}", "")
    return table


def flops_table(done: Rehearsal) -> Table:
    """Floating-point operations of a step, by component and phase."""
    table = Table()
    table.add_column("")
    for phase in (*PHASES, "all"):
        table.add_column(phase, justify="right")
    by_use = flops_by_use(done)
    for component in components(by_use):
        numbers = [by_use.get(Use(phase, component), 0) for phase in PHASES]
        table.add_row(component, *(_tera(number) for number in (*numbers, sum(numbers))))
    table.add_section()
    numbers = [of_kind(by_use, phase) for phase in PHASES]
    table.add_row("all", *(_tera(number) for number in (*numbers, sum(numbers))))
    return table


def plain(done: Rehearsal, listing: bool) -> dict[str, Any]:
    """The same as plain values; with every single message if asked for."""
    layout, rank = done.layout, done.rank
    flops: dict[str, dict[str, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
    for (use, operator), number in done.flops.items():
        if number:
            flops[use.kind][use.component][operator] = number
    found: dict[str, Any] = {
        "rank": rank,
        "layout": layout.describe(),
        "place": layout.place(rank)._asdict(),
        "layers": [list(part.layers) for part in layout.parts_of(rank)],
        "groups": {kind: _members(layout.members(kind, rank)) for kind in GROUP_KINDS},
        "memory": {
            "peak_bytes": done.peak,
            "host_peak_bytes": done.host_peak,
            "at_peak": _nested(done.at_peak),
            "resting": _nested(done.resting),
            "kept_by_a_micro_batch": done.kept,
        },
        "flops": flops,
        "traffic": [
            {
                "op": op, "group": group, "ranks": ranks, "calls": len(messages),
                "sent_bytes": sum(message.sent(rank) for message in messages),
            }
            for (op, group, ranks), messages in grouped(done.messages)
        ],
        "seconds": round(done.seconds, 2),
    }  # fmt: skip
    if listing:
        found["messages"] = [
            {"op": message.op, "group": message.group, "ranks": len(message.ranks), "sent_bytes": message.sent(rank)}
            | ({"peer": message.peer} if message.peer >= 0 else {})
            for message in done.messages
        ]
    return found


def of_kind(sizes: Mapping[Use, int], kind: str) -> int:
    """The sum over components."""
    return sum(size for use, size in sizes.items() if use.kind == kind)


def flops_by_use(done: Rehearsal) -> dict[Use, int]:
    """Floating-point operations by phase and component."""
    total: Counter[Use] = Counter()
    for (use, _), number in done.flops.items():
        total[use] += number
    return {use: number for use, number in total.items() if number}


def components(uses: Iterable[Use]) -> list[str]:
    """Components that occur, in the order of tables."""
    there = {use.component for use in uses}
    return [*(name for name in COMPONENTS if name in there), *sorted(there - set(COMPONENTS))]


def _nested(sizes: Mapping[Use, int]) -> dict[str, dict[str, int]]:
    nested: dict[str, dict[str, int]] = defaultdict(dict)
    for use, size in sizes.items():
        nested[use.kind][use.component] = size
    return nested


def _members(ranks: Sequence[int]) -> dict[str, Any]:
    return {"size": len(ranks), "ranks": abbreviated(ranks)}


def _layers(layers: range) -> str:
    return f"{layers.start}-{layers.stop - 1}" if layers else "none"


def _gib(size: int) -> str:
    return f"{size / GIB:,.3f}" if size else ""


def _tera(number: int) -> str:
    return f"{number / 1e12:,.3f}" if number else ""
