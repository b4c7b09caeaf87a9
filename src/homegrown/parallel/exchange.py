"""Gradients to the owners of their pieces, weights back to all who hold them: two exchanges a bucket each way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from homegrown.config import ConfigError
from homegrown.optim.slots import Slot
from homegrown.parallel.buckets import Bucket, Entry, Item, Line, fill_buckets
from homegrown.parallel.collectives import start_exchange
from homegrown.parallel.groups import Group
from homegrown.parallel.pieces import Piece, Team

BUCKET_BYTES = 64 << 20
"""Most bytes of a bucket, unless one piece is larger."""

_OVER = object()


class Exchange:
    """The dense parameters that one team holds in one dtype.

    Gradients are copied into lines, shares are exchanged, summed in the fixed tree over the members of a column in
    their order, and handed to the owners (see `buckets`). The next bucket is under way while one is summed.

    Args:
        group: the team, as a process group.
        team: who holds what.
        items: the pieces, in canonical order.
        weights: this rank's parts of the parameters, all of one dtype.
        gradient_dtype: in which gradients travel to be summed; at least float32 from there to the owner.
        bucket_bytes: most bytes of a bucket, unless one piece is larger.
    """

    def __init__(
        self,
        group: Group,
        team: Team,
        items: Sequence[Item],
        weights: Mapping[str, Tensor],
        gradient_dtype: torch.dtype,
        bucket_bytes: int = BUCKET_BYTES,
    ) -> None:
        self._group, self._team, self._items = group, team, items
        self._weights = {name: weight.detach() for name, weight in weights.items()}
        self._any = next(iter(self._weights.values()))
        self._gradient_dtype = gradient_dtype
        self._most = bucket_bytes // max(gradient_dtype.itemsize, self._any.dtype.itemsize)
        self._plans: dict[frozenset[str], list[Bucket]] = {}
        own = self._collect(self.buckets(), self._weights, self._any.dtype, summed=False)
        self.slots = {
            piece: Slot(piece.name, values.to(torch.float32), (piece.start, piece.stop), values.device)
            for piece, values in own.items()
        }

    def buckets(self, names: Iterable[str] | None = None) -> list[Bucket]:
        """The buckets of these parameters, of all by default."""
        wanted = frozenset(self._weights if names is None else names)
        if wanted not in self._plans:
            items = [item for item in self._items if item.piece.name in wanted]
            self._plans[wanted] = fill_buckets(items, self._team, self._group.rank, self._most)
        return self._plans[wanted]

    def reduce(self, gradients: Mapping[str, Tensor | None]) -> None:
        """Sum the gradients of these parameters into the slots of their owners.

        Args:
            gradients: the same names on all members, a gradient for each; `None` counts as zeros.

        Raises:
            ConfigError: a gradient is sparse, or of a dtype that would be rounded on the way.
        """
        for name, gradient in gradients.items():
            self._check(name, gradient)
        own = self._collect(self.buckets(gradients), gradients, self._gradient_dtype, summed=True)
        for piece, slot in self.slots.items():
            slot.gradient = own.get(piece)

    def publish(self, names: Iterable[str] | None = None) -> None:
        """Round the owners' masters of these parameters, of all by default, into the weights of all members."""
        _run(self._spread(bucket) for bucket in self.buckets(names))

    def staging(self) -> int:
        """Most bytes that buckets under way take: two, each packed and arrived, and the first sums of one."""
        sizes = [bucket.line.length for bucket in self.buckets()]
        moved = max((sum(pair) for pair in zip(sizes, [0, *sizes], strict=False)), default=0)
        return 2 * moved * self._gradient_dtype.itemsize + max(sizes, default=0) // 2 * torch.float32.itemsize

    def _check(self, name: str, gradient: Tensor | None) -> None:
        if gradient is None:
            return
        if gradient.is_sparse:
            raise ConfigError(
                f"parameter {name!r}: sparse gradients travel between ranks only of n-gram tables in `row_lazy`"
            )
        check_width(name, gradient.dtype, self._gradient_dtype)

    # To the owners

    def _collect(
        self, buckets: Iterable[Bucket], values: Mapping[str, Tensor | None], dtype: torch.dtype, summed: bool
    ) -> dict[Piece, Tensor]:
        """What this member owns of all members' values: their sums, or what the members hold alike."""
        own: dict[Piece, Tensor] = {}
        _run(self._hand_in(bucket, values, dtype, summed, own) for bucket in buckets)
        return own

    def _hand_in(
        self,
        bucket: Bucket,
        values: Mapping[str, Tensor | None],
        dtype: torch.dtype,
        summed: bool,
        own: dict[Piece, Tensor],
    ) -> Iterator[None]:
        packed = self._packed(bucket, values, dtype)
        start, stop = bucket.share
        if summed and self._team.holders > 1:
            arriving = start_exchange(packed, self._group, bucket.shares, bucket.copies)
            yield
            share = sum_rows(arriving.wait().view(self._team.holders, stop - start))
            del packed, arriving
        else:
            share = packed[start:stop]
        handing = start_exchange(share, self._group, bucket.handed, bucket.owned)
        yield
        self._deliver(bucket, handing.wait(), own)

    def _packed(self, bucket: Bucket, values: Mapping[str, Tensor | None], dtype: torch.dtype) -> Tensor:
        packed = self._any.new_empty(bucket.line.length, dtype=dtype)
        targets, sources = [], []
        for entry in bucket.line.entries:
            value, target = values[entry.item.piece.name], _at(packed, entry)
            if value is None:
                target.zero_()
            else:
                targets.append(target)
                sources.append(value[slice(*entry.extent.local)])
        _copy(targets, sources)
        return packed

    def _deliver(self, bucket: Bucket, arrived: Tensor, own: dict[Piece, Tensor]) -> None:
        for line, segment in zip(bucket.lines, self._by_column(bucket, arrived), strict=True):
            for entry in line.owned(self._group.rank):
                piece, part = entry.item.piece, _at(segment, entry)
                if part.shape == entry.item.shape:
                    own[piece] = part
                    continue
                if piece not in own:
                    own[piece] = part.new_empty(entry.item.shape)
                _within(own[piece], entry).copy_(part)

    def _by_column(self, bucket: Bucket, arrived: Tensor) -> list[Tensor]:
        columns = self._team.columns
        if columns == 1:
            return [arrived]
        parts = _cut(arrived, bucket.owned)
        return [
            _joined((parts[member] for member in parts if member % columns == column), arrived)
            for column in range(columns)
        ]

    # Back

    def _spread(self, bucket: Bucket) -> Iterator[None]:
        handing = start_exchange(self._published(bucket), self._group, bucket.owned, bucket.handed)
        yield
        share = handing.wait()
        if self._team.holders > 1:
            arriving = start_exchange(share.repeat(self._team.holders), self._group, bucket.copies, bucket.shares)
            yield
            share = arriving.wait()
        weights = [self._weights[entry.item.piece.name][slice(*entry.extent.local)] for entry in bucket.line.entries]
        _copy(weights, [_at(share, entry) for entry in bucket.line.entries])

    def _published(self, bucket: Bucket) -> Tensor:
        """This owner's masters in the weights' dtype, in the order in which they go to the members' shares."""
        segments = [self._segment(line) for line in bucket.lines]
        columns = self._team.columns
        if columns == 1:
            return segments[0]
        parts = {
            holder * columns + column: part
            for column, segment in enumerate(segments)
            for holder, part in _cut(segment, bucket.owned[column::columns]).items()
        }
        return _joined((parts[member] for member in sorted(parts)), segments[0])

    def _segment(self, line: Line) -> Tensor:
        start, stop = line.segment(self._group.rank)
        segment = self._any.new_empty(stop - start)
        entries = line.owned(self._group.rank)
        masters = [_within(self.slots[entry.item.piece].master, entry) for entry in entries]
        _copy([_at(segment, entry) for entry in entries], masters)
        return segment


def check_width(name: str, gradient: torch.dtype, travelling: torch.dtype) -> None:
    """Raise `ConfigError` if a gradient would lose bits on the way."""
    if torch.promote_types(gradient, travelling) != travelling:
        raise ConfigError(
            f"parameter {name!r}: its {gradient} gradient would be rounded to {travelling} on the way to its owner; "
            "build the optimizer with `gradient_dtype` of at least that width"
        )


def _run(jobs: Iterable[Iterator[None]]) -> None:
    """Run jobs that pause while something is under way, each one pause behind the next one begun."""
    running: list[Iterator[None]] = []
    for job in jobs:
        running = [each for each in (job, *running) if next(each, _OVER) is not _OVER]
    while running:
        running = [each for each in running if next(each, _OVER) is not _OVER]


def sum_rows(rows: Tensor) -> Tensor:
    """`tree.tree_sum` of the rows of [n, ...], a level at a time; the rows may be overwritten."""
    wide = torch.promote_types(rows.dtype, torch.float32)
    while len(rows) > 1:
        pairs = len(rows) // 2 * 2
        sums = rows[0:pairs:2].to(wide).add_(rows[1:pairs:2])
        rows = sums if pairs == len(rows) else torch.cat([sums, rows[pairs:].to(wide)])
    return rows[0].to(wide)


def _at(line: Tensor, entry: Entry) -> Tensor:
    """An entry's numbers in a line (or a segment), in the shape of its part of the piece."""
    shape = list(entry.item.shape)
    shape[entry.extent.dim] = entry.extent.stop - entry.extent.start
    return line[entry.offset : entry.offset + entry.extent.numbers].view(shape)


def _within(piece: Tensor, entry: Entry) -> Tensor:
    """An entry's part of a piece."""
    return piece.narrow(entry.extent.dim, entry.extent.start, entry.extent.stop - entry.extent.start)


def _cut(x: Tensor, sizes: Sequence[int]) -> dict[int, Tensor]:
    """Parts of these sizes that lie in x end to end, by number. Of thousands of members most have none: those are left
    out."""
    places = zip(accumulate(sizes, initial=0), sizes, strict=False)
    return {number: x[start : start + size] for number, (start, size) in enumerate(places) if size}


def _joined(parts: Iterable[Tensor], like: Tensor) -> Tensor:
    """Parts end to end; nothing, of the dtype of `like`, if there are none."""
    there = list(parts)
    return torch.cat(there) if there else like[:0]


def _copy(targets: list[Tensor], sources: list[Tensor]) -> None:
    if targets:
        torch._foreach_copy_(targets, sources)
