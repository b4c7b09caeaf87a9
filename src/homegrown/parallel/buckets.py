"""How the gradients of a bucket travel: counts of numbers, computed alike by all, without a device.

A column's members hold the same parts of the bucket's pieces. Those parts, ordered by the pieces' owners, form the
column's *line*. Every member of a column sums an equal *share* of its line, and hands what it summed to the owners, to
each the overlap of the share with the owner's *segment* of the line. So nobody sends or receives much more than a
bucket, however few the owners are: one matrix of a hundred million numbers, on a thousand ranks, would otherwise bring
its owner a thousand copies of it. Weights go the same way back.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from homegrown.parallel.pieces import Extent, Piece, Team

ALIGNMENT = 64
"""Numbers at whose multiples every part of a line begins: kernels that read a piece's gradient find it at an address
as round as that of a tensor of its own, and so with the same bits."""


class Item(NamedTuple):
    """A piece that travels.

    Attributes:
        shape: of the piece.
        owner: member of the team.
        extents: what each column holds of it.
    """

    piece: Piece
    shape: tuple[int, ...]
    owner: int
    extents: tuple[Extent | None, ...]


class Entry(NamedTuple):
    """A part of a line: whose piece, what of it, and where in the line it begins."""

    item: Item
    extent: Extent
    offset: int


@dataclass(frozen=True)
class Line:
    """What the members of a column hold of a bucket, end to end.

    Attributes:
        entries: by owner.
        segments: first and last number of each owner's part; owners without one are absent.
        length: in numbers, padding included.
    """

    entries: tuple[Entry, ...]
    segments: dict[int, tuple[int, int]]
    length: int

    def segment(self, owner: int) -> tuple[int, int]:
        """First and last number of an owner's part."""
        return self.segments.get(owner, (0, 0))

    def owned(self, owner: int) -> list[Entry]:
        """The entries of an owner, placed in its segment."""
        start, stop = self.segment(owner)
        return [entry._replace(offset=entry.offset - start) for entry in self.entries if start <= entry.offset < stop]


@dataclass(frozen=True)
class Bucket:
    """Pieces that travel together, as one member sees it.

    Attributes:
        items: ordered by owner.
        team: among whom.
        me: this member.
    """

    items: tuple[Item, ...]
    team: Team
    me: int

    @cached_property
    def lines(self) -> tuple[Line, ...]:
        """Each column's line."""
        return tuple(_line(self.items, column) for column in range(self.team.columns))

    @property
    def line(self) -> Line:
        """This member's line."""
        return self.lines[self.me % self.team.columns]

    @property
    def share(self) -> tuple[int, int]:
        """First and last number of this member's share of its line."""
        return self._share(self.me)

    @cached_property
    def shares(self) -> list[int]:
        """Numbers of this member's line that each member sums: what it sends to them."""
        return [stop - start for start, stop in self._in_my_column(self._share(member) for member in self._members)]

    @cached_property
    def copies(self) -> list[int]:
        """Numbers that come from each member to be summed: this member's share, from all of its column."""
        start, stop = self.share
        return [stop - start for start, stop in self._in_my_column((start, stop) for _ in self._members)]

    @cached_property
    def handed(self) -> list[int]:
        """Numbers of this member's share that belong to each owner."""
        return [_overlap(self.share, self.line.segment(member)) for member in self._members]

    @cached_property
    def owned(self) -> list[int]:
        """Numbers that come from each member's share because this member owns them."""
        segments = [line.segment(self.me) for line in self.lines]
        if not any(start < stop for start, stop in segments):
            return [0] * len(self.team.ranks)
        return [_overlap(self._share(member), segments[member % self.team.columns]) for member in self._members]

    @property
    def _members(self) -> range:
        return range(len(self.team.ranks))

    def _share(self, member: int) -> tuple[int, int]:
        holder, column = divmod(member, self.team.columns)
        length, holders = self.lines[column].length, self.team.holders
        return length * holder // holders, length * (holder + 1) // holders

    def _in_my_column(self, spans: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        columns = self.team.columns
        mine = self.me % columns
        return (span if member % columns == mine else (0, 0) for member, span in enumerate(spans))


def fill_buckets(items: Sequence[Item], team: Team, me: int, most: int) -> list[Bucket]:
    """Buckets of at most `most` numbers in a line, or of one larger piece; which pieces share one is the same for all.

    Columns fill alike: of a parameter spread by rows, blocks of all columns take turns.
    """
    names = {name: number for number, name in enumerate(dict.fromkeys(item.piece.name for item in items))}
    buckets: list[Bucket] = []
    chosen: list[Item] = []
    totals = [0] * team.columns
    for item in sorted(items, key=lambda item: (names[item.piece.name], _first_row(item), item.piece.start)):
        numbers = [0 if extent is None else extent.numbers for extent in item.extents]
        if chosen and max(map(operator.add, totals, numbers)) > most:
            buckets.append(_bucket(chosen, team, me))
            chosen, totals = [], [0] * team.columns
        chosen.append(item)
        totals = list(map(operator.add, totals, numbers))
    return [*buckets, _bucket(chosen, team, me)] if chosen else buckets


def _first_row(item: Item) -> int:
    return min(extent.local[0] for extent in item.extents if extent is not None)


def _bucket(items: list[Item], team: Team, me: int) -> Bucket:
    return Bucket(tuple(sorted(items, key=lambda item: item.owner)), team, me)


def _line(items: Sequence[Item], column: int) -> Line:
    entries: list[Entry] = []
    segments: dict[int, tuple[int, int]] = {}
    offset = 0
    for item in items:
        extent = item.extents[column]
        if extent is not None:
            entries.append(Entry(item, extent, offset))
            start = segments.get(item.owner, (offset, offset))[0]
            offset += -(-extent.numbers // ALIGNMENT) * ALIGNMENT
            segments[item.owner] = (start, offset)
    return Line(tuple(entries), segments, offset)


def _overlap(one: tuple[int, int], other: tuple[int, int]) -> int:
    return max(0, min(one[1], other[1]) - max(one[0], other[0]))
