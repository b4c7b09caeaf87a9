"""The context seam over pages: rows of many sequences side by side in one pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from homegrown.config import ModelConfig
from homegrown.model import History
from homegrown.model.context import Queries
from homegrown.model.rope import angles
from homegrown.model.sparse import IndexInput, Selection
from homegrown.ops import Span
from homegrown.serve.engine.buffers import Kind, PageBuffers
from homegrown.serve.engine.layout import Layout, budget_of, indices
from homegrown.serve.engine.stretch import cell


@dataclass(frozen=True)
class PagedSelection(Selection):
    """What the parts of a pass selected; `positions` is not used.

    Attributes:
        cells: per part, int64 [1, n, K] cells, −1 unused; `None` where its rows see all keys.
    """

    cells: tuple[Tensor | None, ...]


class PagedContext:
    """New tokens of several sequences as one row, int64 [1, N]; keys are written to their pages as the model runs.

    Every sequence's rows select and attend as in a `CachedContext` of its own. Where its groups hold one stretch each,
    they do so in the same shapes, and to the last bit.

    Args:
        config: the model.
        buffers: the pages.
        layout: where the rows lie; of the draft block's, if its shift is 1.
        dtype: of the activations.
        apart: compute each row's rotary table alone, as a pass of one row does.
    """

    def __init__(
        self, config: ModelConfig, buffers: PageBuffers, layout: Layout, dtype: torch.dtype, apart: bool = False
    ) -> None:
        self.config, self.buffers, self.layout = config, buffers, layout
        positions = torch.tensor([layout.each(lambda _, place: place - layout.shift)], dtype=torch.int64)
        self.span = Span(torch.zeros_like(positions), positions, buffers.device)
        self._cells = indices(
            layout.each(lambda stretch, place: cell(stretch, place, buffers.page_size)), buffers.device
        )
        self.parts = layout.parts(config, buffers, budget_of(config, layout.shift))
        wide = torch.promote_types(dtype, torch.float32)
        pieces = self.span.positions.split(1 if apart else layout.count, dim=1)
        tables = [angles(config.rope, config.qk_rope_head_dim, piece, wide) for piece in pieces]
        cos, sin = zip(*tables, strict=True)
        self._rotation = (torch.cat(cos, dim=1), torch.cat(sin, dim=1))

    @property
    def padding(self) -> Tensor | None:
        """Every row counts."""
        return None

    def history(self, tokens: Tensor) -> History:
        """The new tokens among those before them."""
        return history_of(self.layout, tokens)

    def rotation(self) -> tuple[Tensor, Tensor]:
        """Rotary tables of the rows' positions."""
        return self._rotation

    def wants_index(self) -> bool:
        """Always: later queries may need these keys' scores."""
        return True

    def select(self, slot: int, index: IndexInput) -> Selection:
        """Write the index keys; every part chooses once more keys are visible than the budget."""
        self.write("index", slot, index.key[0])
        return PagedSelection(None, index, tuple(part.select(slot, index) for part in self.parts))

    def write(self, kind: Kind, slot: int, rows_NW: Tensor) -> None:
        """Write a sublayer's keys of all rows to their cells, and tell whoever watches."""
        getattr(self.buffers, kind)[slot].index_copy_(0, self._cells, rows_NW)
        if self.buffers.watch is not None:
            self.buffers.watch(kind, slot, self.layout.stretches, rows_NW)

    def attend(self, slot: int, queries: Queries, selection: Selection | None) -> tuple[Tensor, Tensor | None]:
        """Write the keys, then absorbed attention: [1, N, h, V], zero for rows that only write."""
        new = torch.cat((queries.latent_BSL[0], queries.rope_key_BSR[0]), dim=-1)
        self.write("latent", slot, new)
        chosen = selection.cells if isinstance(selection, PagedSelection) else (None,) * len(self.parts)
        outs = [part.attend(slot, queries, cells) for part, cells in zip(self.parts, chosen, strict=True)]
        if len(outs) == 1 and self.parts[0].whole:
            return outs[0], None
        heads, width = queries.q_BShD.shape[2], queries.kv_b_hNVL.shape[1] - self.config.qk_nope_head_dim
        out = new.new_zeros(1, self.layout.count, heads, width)
        for part, own in zip(self.parts, outs, strict=True):
            part.put(out, own)
        return out, None


def history_of(layout: Layout, tokens: Tensor) -> History:
    """Every stretch behind its earlier tokens, one after the other: a token's place in its own text keeps it from
    looking back into another's.

    Args:
        layout: of the rows.
        tokens: int64 [1, N] theirs.
    """
    known: list[int] = []
    places: list[int] = []
    new: list[int] = []
    for stretch in layout.stretches:
        known += [*stretch.earlier, *[-1] * stretch.count]
        places += [*[0] * len(stretch.earlier), *range(stretch.past - layout.shift, stretch.stop - layout.shift)]
        new += range(len(known) - stretch.count, len(known))
    at = indices(new, tokens.device)
    row = indices(known, tokens.device).index_copy_(0, at, tokens[0])
    return History(row[None], indices(places, tokens.device)[None], at)
