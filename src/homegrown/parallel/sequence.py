"""Sequences spread over ranks: context parallelism on compressed keys, and slices of it over tensor parallelism.

Between blocks a rank holds its own positions of a row only. Attention works on the context positions, which a tp group
has in common, against the keys of the whole row: latents, shared rope keys and index keys are gathered, never expanded
ones. Gradients of gathered keys are summed back to where the keys came from, in a fixed order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from homegrown import ops
from homegrown.config import ModelConfig
from homegrown.model import FullContext, History, Longcat
from homegrown.model.context import Queries
from homegrown.model.sparse import IndexInput, Selection
from homegrown.ops import Span
from homegrown.ops.indexing import Targets
from homegrown.parallel.collectives import all_gather, all_reduce, exchange
from homegrown.parallel.groups import Group, Groups
from homegrown.parallel.rowsplit import RowSplit, columns
from homegrown.parallel.tree import tree_sum


@dataclass(frozen=True)
class Rows:
    """The rows of a micro-batch, and the part of them that is computed here.

    Attributes:
        tokens: int64 [B, S + 1], whole.
        context, own: what the context and the own positions see of the whole rows.
        max_visible: the most keys any position of the whole rows sees; what depends on it is the same everywhere.
        split: how rows are cut.
        groups: the ranks that share them.
    """

    tokens: Tensor
    context: Span
    own: Span
    max_visible: int
    split: RowSplit
    groups: Groups

    @classmethod
    def cut(cls, tokens: Tensor, first: Tensor, split: RowSplit, groups: Groups) -> Rows:
        """Cut rows: int64 tokens [B, S + 1], and first [B, S + 1] on the host, where each token's document begins."""
        inputs = first[:, : split.length]
        # What only fills a row up sees nothing but itself, and nothing sees it.
        filling = torch.arange(split.length, split.padded).expand(len(first), -1)
        longer = torch.cat((inputs, filling), dim=1)

        def seen(runs: tuple[range, ...]) -> Span:
            at = columns(runs)
            return Span(longer[:, at], at.expand(len(first), -1), tokens.device)

        whole = Span.packed(inputs)
        return cls(tokens, seen(split.context_runs), seen(split.own_runs), whole.max_visible, split, groups)


class ParallelContext(FullContext):
    """Own positions as queries of the indexer, context positions as queries of attention, the whole row as keys.

    `span` and `rotation` are those of the context positions; index inputs, padding, what `counting` is told and the
    indexer's loss are for the own ones.

    Args:
        config, dtype, index_loss: as in `FullContext`.
        rows: the micro-batch.
    """

    def __init__(self, config: ModelConfig, rows: Rows, dtype: torch.dtype, index_loss: str = "off") -> None:
        super().__init__(config, rows.context, dtype, index_loss)
        self.rows, self.max_visible = rows, rows.max_visible

    @property
    def padding(self) -> Tensor | None:
        """Own positions that only fill the rows up."""
        split = self.rows.split
        return None if split.padded == split.length else self.rows.own.last >= split.length

    def history(self, tokens: Tensor) -> History:
        """The own positions' tokens among all tokens of their rows."""
        rows, back = self.rows, look_back(self.config)
        return rows.split.history(rows.tokens[:, :-1], rows.own.positions, ahead=0, back=back, fill=0)

    def select(self, slot: int, index: IndexInput) -> Selection:
        """Own queries choose among the keys of the whole row; attention's queries get the choices of all of theirs."""
        rows = self.rows
        key = rows.split.in_order(all_gather(index.key, rows.groups["sequence"], 1))
        index = IndexInput(index.query, key, index.weight)
        if not self.restricts:
            return Selection(None, index)
        chosen = ops.select(index.query, key, index.weight, rows.own, self.config.sparse)
        # Half the bytes on their way: a row has fewer than 2^31 positions.
        return Selection(all_gather(chosen.to(torch.int32), rows.groups["tp"], 1).to(torch.int64), index)

    def attend(self, slot: int, queries: Queries, selection: Selection | None) -> tuple[Tensor, Tensor | None]:
        """The context's queries against the compressed keys of the whole row."""
        rows = self.rows
        new = torch.cat((queries.latent_BSL, queries.rope_key_BSR), dim=-1)
        keys = rows.split.in_order(all_gather(new, rows.groups["cp"], 1))
        latent, rope_key = keys.split((queries.latent_BSL.shape[-1], queries.rope_key_BSR.shape[-1]), dim=-1)
        return super().attend(slot, replace(queries, latent_BSL=latent, rope_key_BSR=rope_key), selection)

    def index_objective(self, core: tuple[Tensor, Tensor, Tensor], scale: float, selection: Selection) -> Tensor:
        """The indexer's loss of the own queries, which have the attention of all heads for a target."""
        own, index, positions = self.rows.split.own, selection.index, selection.positions
        targets: Targets = ops.core_targets(core, self.span, scale, positions)
        group = self.rows.groups["tp"]
        if group.size > 1:
            targets = OverHeads(targets, group, self.rows.own.first.shape[1])
        chosen = None if positions is None else positions[:, own]
        return ops.indexer_loss((index.query, index.key, index.weight), targets, self.rows.own, chosen, self.counted)


class OverHeads(NamedTuple):
    """Means over the heads that are here, for context positions, made into means over all heads, for own positions.

    A chunk of one rank's own positions needs every rank's heads: all ranks ask for the same chunk of theirs at a time,
    and each computes everybody's.

    Attributes:
        here: the means over the heads that are here.
        group: the ranks that have the others.
        each: own positions of a rank.
    """

    here: Targets
    group: Group
    each: int

    def __call__(self, start: int, stop: int) -> Tensor:
        """Of this rank's own positions start..stop."""
        group, each = self.group, self.each
        parts = [self.here(rank * each + start, rank * each + stop) for rank in range(group.size)]
        mine, sizes = parts[group.rank], [part.numel() for part in parts]
        sent = torch.cat([part.flatten() for part in parts])
        arrived = exchange(sent, group, sizes, [mine.numel()] * group.size)
        return tree_sum(arrived.view(group.size, *mine.shape).unbind(0)) / group.size


class SequencePortion:
    """The part of each row that one rank computes (a `Portion` of the losses).

    Args:
        groups: the rank's groups: `cp`, `tp`, and `sequence` for both.
    """

    def __init__(self, groups: Groups) -> None:
        self.groups = groups

    def split(self, length: int) -> RowSplit:
        """How rows of `length` positions are cut."""
        return RowSplit(length, self.groups.layout, self.groups.rank)

    def take(self, x_BS: Tensor, fill: int) -> Tensor:
        """The columns of [B, S] at this rank's own positions, `fill` beyond S: [B, s]."""
        return self.split(x_BS.shape[1]).take(x_BS, fill)

    def context(self, model: Longcat, tokens: Tensor, first: Tensor, index_loss: str) -> ParallelContext:
        """The context of this portion: int64 tokens [B, S + 1], first [B, S + 1] on the host."""
        rows = Rows.cut(tokens, first, self.split(tokens.shape[1] - 1), self.groups)
        # Whatever a part of a model begins with, embedding or norm, has the model's dtype.
        return ParallelContext(model.config, rows, next(model.parameters()).dtype, index_loss)

    def drafted(self, context: FullContext, tokens: Tensor, ahead: int) -> History:
        """The tokens `ahead` places beyond the own positions, end-of-sequence beyond the rows."""
        config, split = context.config, self.split(tokens.shape[1] - 1)
        places = context.span.positions[:, split.own] + ahead
        return split.history(tokens, places, ahead, look_back(config), config.eos_token_id)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the ranks that share rows."""
        return all_reduce(values, self.groups["sequence"])


def look_back(config: ModelConfig) -> int:
    """Tokens before its own that a position's n-grams reach."""
    return max(config.ngram.order - 1, 0)
