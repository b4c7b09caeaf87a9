"""Attention of some of a pass's rows over their sequences' pages."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from homegrown import ops
from homegrown.config import ModelConfig
from homegrown.model.context import Queries, owner_slots
from homegrown.model.sparse import IndexInput
from homegrown.ops import Span
from homegrown.serve.engine.buffers import PageBuffers
from homegrown.serve.engine.stretch import Stretch

# Shape suffixes: N rows of the pass, n rows of the part, B sequences of the part, S rows of the longest of them,
# T keys of the longest, K chosen keys, C cells.


class Part:
    """Rows that attend together, padded to [B, S] rows and [B, T] keys.

    Padding of a shorter stretch repeats its last row, and is dropped. Padding of keys is hidden from every row.

    Args:
        config: the model.
        buffers: where the keys are.
        budget: keys that each row may choose, 0 where it sees all.
        shift: how far a row's token lies behind the position that it is computed at; key k is in cell k + shift.
        stretches: whose rows these are.
        starts: the first row of each in the pass.
        whole: its rows are all those of the pass in their order.
    """

    def __init__(
        self,
        config: ModelConfig,
        buffers: PageBuffers,
        budget: int,
        shift: int,
        stretches: Sequence[Stretch],
        starts: Sequence[int],
        whole: bool,
    ) -> None:
        self._config, self._buffers, self._shift, self.whole = config, buffers, shift, whole
        self._counts = [stretch.count for stretch in stretches]
        self._starts, self.count = starts, sum(self._counts)
        self._rows = max(self._counts)
        last = [
            [min(place, stretch.stop - 1) - shift for place in range(stretch.past, stretch.past + self._rows)]
            for stretch in stretches
        ]
        span = torch.tensor(last, dtype=torch.int64)
        self.span = Span(torch.zeros_like(span), span, buffers.device)
        self._table = self._page_table(stretches, max(stretch.stop for stretch in stretches))
        self.chooses = 0 < budget < self.span.max_visible
        self._prefill_past = stretches[0].past if stretches[0].prefill else None

    def _page_table(self, stretches: Sequence[Stretch], stop: int) -> Tensor:
        """int64 [B, pages that hold the longest sequence]; page 0 where a sequence has none."""
        number = -(-stop // self._buffers.page_size)
        rows = [list(stretch.pages[:number]) for stretch in stretches]
        padded = [row + [0] * (number - len(row)) for row in rows]
        return torch.tensor(padded, dtype=torch.int64, device=self._buffers.device)

    @cached_property
    def _ragged(self) -> bool:
        return min(self._counts) < self._rows

    @cached_property
    def _adjoin(self) -> bool:
        """Whether the part's rows lie side by side in the pass."""
        places = zip(self._starts, self._counts, self._starts[1:], strict=False)
        return all(start + count == following for start, count, following in places)

    @cached_property
    def rows(self) -> Tensor:
        """The part's rows among those of the pass: int64 [n]."""
        places = zip(self._starts, self._counts, strict=True)
        return torch.tensor(
            [row for start, count in places for row in range(start, start + count)], device=self._buffers.device
        )

    @cached_property
    def _pad(self) -> Tensor:
        """Of each padded row, the row of the part that it repeats: int64 [B · S]."""
        starts = accumulate(self._counts[:-1], initial=0)
        places = zip(starts, self._counts, strict=True)
        padded = [start + min(row, count - 1) for start, count in places for row in range(self._rows)]
        return torch.tensor(padded, device=self._buffers.device)

    @cached_property
    def _unpad(self) -> Tensor:
        """Of each row of the part, its place among the padded ones: int64 [n]."""
        places = [number * self._rows + row for number, count in enumerate(self._counts) for row in range(count)]
        return torch.tensor(places, device=self._buffers.device)

    def take(self, x_1N: Tensor) -> Tensor:
        """The part's rows, [1, N, ...] -> [1, n, ...], in memory of their own unless they are all."""
        if self.whole:
            return x_1N
        if self._adjoin:
            return x_1N.narrow(1, self._starts[0], self.count).clone(memory_format=torch.contiguous_format)
        return x_1N.index_select(1, self.rows)

    def put(self, out_1N: Tensor, part_1n: Tensor) -> None:
        """Write the part's rows to their places in [1, N, ...]."""
        if self._adjoin:
            out_1N.narrow(1, self._starts[0], self.count).copy_(part_1n)
        else:
            out_1N.index_copy_(1, self.rows, part_1n)

    def _padded(self, x_1n: Tensor) -> Tensor:
        x = x_1n.index_select(1, self._pad) if self._ragged else x_1n
        return x.reshape(len(self._counts), self._rows, *x.shape[2:])

    def _flat(self, x_BS: Tensor) -> Tensor:
        x = x_BS.reshape(1, -1, *x_BS.shape[2:])
        return x.index_select(1, self._unpad) if self._ragged else x

    def _keys(self, buffer_CW: Tensor) -> Tensor:
        """[B, T, W]."""
        return self._buffers.gather(buffer_CW, self._table)[:, self._shift : self._shift + self.span.keys]

    def select(self, slot: int, index: IndexInput) -> Tensor | None:
        """Choose keys for the owner sublayer `slot`.

        Returns:
            int64 [1, n, K] cells of the keys that each row chose, −1 unused; `None` where rows see all keys.
        """
        if not self.chooses:
            return None
        query, weight = (self._padded(self.take(x)) for x in (index.query, index.weight))
        keys = self._keys(self._buffers.index[slot])
        chosen = [
            ops.select(query[:, start:stop], keys, weight[:, start:stop], span, self._config.sparse, paged)
            for start, stop, span, paged in self._ranges(slot)
        ]
        return self._flat(self._cells(torch.cat(chosen, dim=1)))

    def _ranges(self, slot: int) -> list[tuple[int, int, Span, bool]]:
        """Rows start..stop that choose in the same way, what they see, and whether they choose page by page: that
        depends on what a token of a prompt sees, not on the chunk it came in."""
        sparse = self._config.sparse
        past = self._prefill_past
        if past is None or not sparse.hierarchical:
            return [(0, self._rows, self.span, False)]
        first = self._rows
        if owner_slots(self._config).index(slot) >= sparse.hierarchical_skip_owners:
            first = min(max(sparse.hierarchical_threshold - 1 - past, 0), self._rows)
        parts = ((0, first, False), (first, self._rows, True))
        return [(start, stop, self._cut(start, stop), paged) for start, stop, paged in parts if start < stop]

    def _cut(self, start: int, stop: int) -> Span:
        return Span(self.span.first[:, start:stop], self.span.last[:, start:stop], self._buffers.device)

    def _cells(self, chosen_BSK: Tensor) -> Tensor:
        size = self._buffers.page_size
        place = chosen_BSK.clamp(min=0) + self._shift
        page = self._table.gather(1, (place // size).flatten(1)).view_as(place)
        return torch.where(chosen_BSK < 0, -1, page * size + place % size)

    def attend(self, slot: int, queries: Queries, cells_1nK: Tensor | None) -> Tensor:
        """Absorbed attention over the chosen cells, or over all keys: [1, n, h, V]."""
        latent = self._buffers.latent[slot]
        q = self.take(queries.q_BShD)
        if cells_1nK is None:
            keys = self._keys(latent)
            return self._flat(ops.latent_attention(self._padded(q), keys, queries.kv_b_hNVL, self.span, queries.scale))
        return ops.latent_attention(q, latent[None], queries.kv_b_hNVL, self._flat_span, queries.scale, cells_1nK)

    @cached_property
    def _flat_span(self) -> Span:
        """As many rows; what they see is told by their chosen cells."""
        return Span.causal(1, self.count, device=self._buffers.device)
