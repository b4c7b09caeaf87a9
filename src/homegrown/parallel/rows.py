"""Embedding parallelism: the rows of the n-gram tables live on different processes and travel to who looks them up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from homegrown import device as devices
from homegrown.config import ModelConfig
from homegrown.model.ngram import table_sizes
from homegrown.parallel.collectives import exchange
from homegrown.parallel.groups import Group, Groups
from homegrown.parallel.planned import distinct
from homegrown.parallel.rowsum import Addends, tree_rows

# Shape suffixes: I ids looked up, U different ones among them, W width of a row, L leaves.


class Piece(NamedTuple):
    """Rows of a gradient: int64 global ids [U] and values [U, W]."""

    ids: Tensor
    values: Tensor


class RowExchange:
    """A lookup (`model.ngram.Lookup`) in a table whose rows are spread over a group.

    Forward, each different id travels once from who needs it to its owner, and its row comes back. Backward, nothing
    travels: gradients are kept by leaf, and `collect` sends those of a whole step to the rows' owners, who add them up.

    A leaf is a micro-batch, the smallest addend of a gradient. All lookups of a leaf (for the trunk, for drafts) are
    added up as autograd would; leaves then in the order of a binary tree (`tree`), whoever computed them. Processes
    that share the rows of a batch hold parts of the same leaves, which are added up first.

    Args:
        group: its members hold the rows.
        borders: member r holds rows borders[r] .. borders[r + 1] − 1; the last border is the number of rows.
        width: W.
        sharing: how many ranks, from a multiple of it on, share the rows of a batch.
        planned: for a dry run on tensors without numbers: all rows are equally likely to be looked up.
    """

    def __init__(
        self, group: Group, borders: Sequence[int], width: int, sharing: int = 1, planned: bool = False
    ) -> None:
        if len(borders) != group.size + 1 or borders[0] != 0 or any(start > stop for start, stop in pairwise(borders)):
            raise ValueError(f"borders of rows {list(borders)}: must rise from 0 and part {group.size} members")
        self.group, self.borders, self.width, self.planned = group, list(borders), width, planned
        self._batches = [rank // sharing - group.ranks[0] // sharing for rank in group.ranks]
        self._places = [rank % sharing for rank in group.ranks]
        self._places_each = 1 << (sharing - 1).bit_length()
        self._leaf: int | None = 0
        self._under_way: tuple[int, list[Piece]] = (0, [])
        self._kept: dict[int, Piece] = {}

    @property
    def start(self) -> int:
        """First row that is here."""
        return self.borders[self.group.rank]

    @property
    def rows(self) -> int:
        """Rows that are here."""
        return self.borders[self.group.rank + 1] - self.start

    def begin_leaf(self, number: int | None) -> None:
        """Lookups from now on belong to leaf `number` of this process, from 0 in each step; `None`: to none, and their
        gradients are dropped."""
        self._leaf = number

    def __call__(self, table: Tensor, ids: Tensor) -> Tensor:
        """Rows [..., W] of the whole table at int64 ids [...]; `table` is this member's part of it.

        The table itself gets no gradient; see `collect`. All members call this equally often. The host waits once, for
        the numbers of ids.
        """
        rows: Tensor = _Lookup.apply(table, ids, self, self._leaf)
        return rows

    def fetch(self, table: Tensor, ids_I: Tensor) -> Tensor:
        """The lookup without a gradient: [I, W]."""
        if self.group.size == 1:
            return table.index_select(0, ids_I)
        ordered, order = ids_I.sort(stable=True)
        fresh = F.pad(ordered[1:] != ordered[:-1], (1, 0), value=True)[: len(ordered)]
        number = fresh.cumsum(0)
        which_I = torch.empty_like(order).index_copy_(0, order, number - 1)
        before = F.pad(number, (1, 0))[torch.searchsorted(ordered, self._borders(ids_I))]
        supposed = ([self._distinct(len(ids_I), member)] for member in range(self.group.size))
        send, receive = self._counts(before.diff()[:, None], supposed)
        sent, received = [sum(row) for row in send], [sum(row) for row in receive]
        asked_U = ordered[(~fresh).to(torch.uint8).argsort(stable=True)[: sum(sent)]]
        wanted = exchange(asked_U, self.group, sent, received)
        rows_UW = exchange(table.index_select(0, wanted - self.start), self.group, received, sent)
        return rows_UW.index_select(0, which_I)

    def keep(self, leaf: int | None, piece: Piece) -> None:
        """Note a part of a leaf's gradient; ids may be repeated."""
        if leaf is None:
            return
        if leaf != self._under_way[0]:
            self._finish()
            self._under_way = (leaf, [])
        self._under_way[1].append(piece)

    def collect(self, leaves: int, dense: bool = False) -> Tensor:
        """The gradient of the rows that are here, summed over the leaves of all members; those are then forgotten.

        All members call this at the end of a step.

        Args:
            leaves: of each member in this step.
            dense: make no sparse tensor, which some devices do not have.

        Returns:
            [rows here, W], in float32 or wider; coalesced sparse, or dense.

        Raises:
            ValueError: there were other leaves.
        """
        self._finish()
        if any(leaf not in range(leaves) for leaf in self._kept) or not self._kept:
            raise ValueError(f"gradients of leaves {sorted(self._kept)} in a step of {leaves} leaves, from 0")
        some = next(iter(self._kept.values()))
        none = Piece(some.ids[:0], some.values[:0])
        addends = self._return([self._kept.get(leaf, none) for leaf in range(leaves)])
        self._kept.clear()
        self._leaf = 0
        if self.planned:
            count = math.floor(distinct(len(addends.ids), self.rows))
            ids, values = addends.ids[:count], addends.values[:count].to(torch.float32)
        else:
            last = (self._batches[-1] + 1) * leaves * self._places_each
            ids, values = tree_rows(addends, last)
        if dense:
            return values.new_zeros(self.rows, self.width).index_copy_(0, ids, values)
        return torch.sparse_coo_tensor(
            ids[None], values, (self.rows, self.width), is_coalesced=True, check_invariants=False
        )

    def _return(self, pieces: list[Piece]) -> Addends:
        """Send the leaves' gradients to their owners; those of the rows that are here, numbered by leaf."""
        borders = self._borders(pieces[0].ids)
        sent_MS = torch.stack([torch.searchsorted(piece.ids, borders).diff() for piece in pieces], dim=1)
        supposed = ([self._distinct(len(piece.ids), member) for piece in pieces] for member in range(self.group.size))
        send, receive = self._counts(sent_MS, supposed)
        sent, received = [sum(row) for row in send], [sum(row) for row in receive]
        ids, values = (torch.cat(parts) for parts in zip(*pieces, strict=True))
        # By owner, then leaf, then id.
        order = torch.searchsorted(borders[1:], ids, right=True).argsort(stable=True)[: sum(sent)]
        ids = exchange(ids[order], self.group, sent, received) - self.start
        values = exchange(values.index_select(0, order), self.group, sent, received)
        numbers = [
            (batch * len(pieces) + leaf) * self._places_each + place
            for batch, place in zip(self._batches, self._places, strict=True)
            for leaf in range(len(pieces))
        ]
        counts = torch.tensor([count for row in receive for count in row], device=ids.device)
        number = torch.tensor(numbers, device=ids.device)
        return Addends(ids, number.repeat_interleave(counts, output_size=sum(received)), values)

    def _counts(self, counts_ML: Tensor, supposed: Iterable[list[int]]) -> tuple[list[list[int]], list[list[int]]]:
        """Rows to each member by leaf, and from each, on the host. Each member is told how many come from here."""
        ones = [1] * self.group.size
        received = exchange(counts_ML, self.group, ones, ones)
        if self.planned:
            send = list(supposed)
            return send, [send[self.group.rank]] * self.group.size
        host_send, host_receive = torch.stack((counts_ML, received)).tolist()
        return host_send, host_receive

    def _finish(self) -> None:
        """Add up the pieces of the leaf under way: none will follow while another leaf's arrive."""
        leaf, pieces = self._under_way
        if pieces:
            before = [self._kept[leaf]] if leaf in self._kept else []
            self._kept[leaf] = self._merged(before + pieces)
            self._under_way = (leaf, [])

    def _merged(self, pieces: list[Piece]) -> Piece:
        if self.planned:
            ids, values = (torch.cat(parts) for parts in zip(*pieces, strict=True))
            count = math.floor(distinct(len(ids), self.borders[-1]))
            return Piece(ids[:count], values[:count])
        # Sparse tensors add up as they do in autograd, in the same order and so to the same bits.
        home = pieces[0].ids.device
        # Where the device has no sparse tensors the host adds up.
        there = home if devices.has_sparse(home) else torch.device("cpu")
        shape = (self.borders[-1], self.width)
        total, *rest = (
            torch.sparse_coo_tensor(piece.ids[None].to(there), piece.values.to(there), shape, check_invariants=False)
            for piece in pieces
        )
        for addend in rest:
            total = total + addend
        total = total.coalesce()
        return Piece(total.indices()[0].to(home), total.values().to(home))

    def _distinct(self, ids: int, member: int) -> int:
        """Of so many ids, how many different ones a member's rows can be expected to answer; adds up over members."""
        each = distinct(ids, self.borders[-1]) / self.borders[-1]
        return math.floor(each * self.borders[member + 1]) - math.floor(each * self.borders[member])

    def _borders(self, like: Tensor) -> Tensor:
        return torch.tensor(self.borders, device=like.device)


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, ids: Tensor, rows: RowExchange, leaf: int | None) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.rows, ctx.leaf = rows, leaf
        return rows.fetch(table, ids.flatten()).view(*ids.shape, rows.width)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None, None]:
        # Once per lookup, whatever is recomputed: a lookup that is made again has no backward of its own.
        ctx.rows.keep(ctx.leaf, Piece(ctx.saved_tensors[0].flatten(), grad.flatten(0, -2)))
        return None, None, None, None


def row_exchange(groups: Groups, model: ModelConfig, planned: bool = False) -> RowExchange:
    """The lookup of the n-gram tables under a layout, for a rank of the stage that holds them."""
    name, shape = "ngram_embeddings.table", _table_shape(model)
    group, layout = groups["embp"], groups.layout
    shards = [layout.shard(name, shape, rank, model) for rank in group.ranks]
    borders = [0, *(shard.stop for shard in shards if shard is not None)]
    return RowExchange(group, borders, shape[1], groups["sequence"].size, planned)


def _table_shape(model: ModelConfig) -> tuple[int, int]:
    return sum(table_sizes(model.ngram, model.vocab_size)), model.hidden_size // model.ngram.tables
