"""The context seam of a pass that several processes compute together."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from homegrown.model import History
from homegrown.model.context import Queries
from homegrown.model.sparse import IndexInput, Selection
from homegrown.parallel.collectives import all_gather, gather
from homegrown.parallel.groups import Groups
from homegrown.serve.engine.context import PagedContext, PagedSelection
from homegrown.serve.engine.layout import indices
from homegrown.serve.spread.shares import Share, pieces


class SpreadContext:
    """A rank's view of a `PagedContext`: own rows go through the model and choose keys, context rows attend.

    Every rank has all pages: compressed keys and index keys are gathered, and written everywhere. Selections are those
    of the whole pass, in the order of its parts, on every rank. Rows that fill up go to zero experts, choose and write
    nothing, and attend to nothing.

    Args:
        paged: of the whole pass.
        tokens: int64 [1, N], of the whole pass.
        share: this rank's rows.
        groups: this rank's.
    """

    def __init__(self, paged: PagedContext, tokens: Tensor, share: Share, groups: Groups) -> None:
        self.span = paged.span
        self._paged, self._tokens, self._share, self._groups = paged, tokens, share, groups
        self._own = pieces(paged.layout, share.own, paged.config, paged.buffers)
        self._context = pieces(paged.layout, share.context, paged.config, paged.buffers)
        for piece in self._own:
            # A row chooses wherever its part does, even if it sees few enough keys to take them all.
            piece.part.chooses = paged.parts[piece.number].chooses
        filling = share.padded - share.count
        rows = slice(share.context.start, share.context.stop)
        cos, sin = (F.pad(table, (0, 0, 0, filling))[:, rows] for table in paged.rotation())
        self._rotation = (cos, sin)

    @property
    def padding(self) -> Tensor | None:
        """Own rows that fill up."""
        share = self._share
        if share.own.stop <= share.count:
            return None
        return indices(share.own, self._tokens.device)[None] >= share.count

    def history(self, tokens: Tensor) -> History:
        """Own tokens among all of the pass."""
        return self.own_of(self._paged.history(self._tokens))

    def own_of(self, history: History) -> History:
        """A history of the whole pass for own rows; those that fill up stand where the last real one does."""
        new = history.new
        if isinstance(new, slice):
            new = torch.arange(history.tokens.shape[1], device=history.tokens.device)[new]
        places = [min(row, self._share.count - 1) for row in self._share.own]
        return history._replace(new=new.index_select(0, indices(places, new.device)))

    def rotation(self) -> tuple[Tensor, Tensor]:
        """Rotary tables of the context rows."""
        return self._rotation

    def wants_index(self) -> bool:
        """Always."""
        return True

    def select(self, slot: int, index: IndexInput) -> Selection:
        """Write everybody's index keys; own rows choose, and everybody gets the choices of all."""
        share, paged = self._share, self._paged
        paged.write("index", slot, self._every(index.key[0]))
        if not any(part.chooses for part in paged.parts):
            return PagedSelection(None, index, (None,) * len(paged.parts))
        real = share.real(share.own)
        ours = IndexInput(index.query[:, :real], index.key[:, :real], index.weight[:, :real])
        # A pool has fewer than 2^31 cells: half the bytes on their way.
        chosen = torch.full((share.each, paged.config.sparse.topk), -1, dtype=torch.int32, device=index.key.device)
        for piece in self._own:
            cells = piece.part.select(slot, ours)
            if cells is not None:
                chosen.index_copy_(0, piece.part.rows, cells[0].to(torch.int32))
        every = self._every(chosen).to(torch.int64)
        cells_of = (every.index_select(0, part.rows)[None] if part.chooses else None for part in paged.parts)
        return PagedSelection(None, index, tuple(cells_of))

    def attend(self, slot: int, queries: Queries, selection: Selection | None) -> tuple[Tensor, Tensor | None]:
        """Write everybody's keys; the context rows attend with the heads that are here: [1, context rows, h, V]."""
        share, paged = self._share, self._paged
        new = torch.cat((queries.latent_BSL[0], queries.rope_key_BSR[0]), dim=-1)
        paged.write("latent", slot, all_gather(new, self._groups["cp"], 0)[: share.count])
        chosen = selection.cells if isinstance(selection, PagedSelection) else (None,) * len(paged.parts)
        heads, width = queries.q_BShD.shape[2], queries.kv_b_hNVL.shape[1] - paged.config.qk_nope_head_dim
        out = new.new_zeros(1, len(share.context), heads, width)
        queries = replace(queries, q_BShD=queries.q_BShD[:, : share.real(share.context)])
        for piece in self._context:
            cells = chosen[piece.number]
            ours = None if cells is None else cells.index_select(1, piece.within)
            piece.part.put(out, piece.part.attend(slot, queries, ours))
        return out, None

    def _every(self, own: Tensor) -> Tensor:
        """All ranks' own rows, without those that fill up: [N, ...]."""
        return gather(own, self._groups["sequence"]).flatten(0, 1)[: self._share.count]
