"""A context for several new tokens, each treated as if it came alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from homegrown.config import ModelConfig
from homegrown.model import Cache, CachedContext, History
from homegrown.model.context import Queries
from homegrown.model.sparse import IndexInput, Selection
from homegrown.ops import Span, row


@dataclass(frozen=True)
class RowSelections(Selection):
    """What each row selected for itself; `positions` is not used."""

    rows: tuple[Selection, ...]


class RowContext:
    """New tokens of one sequence side by side in one pass, each in a `CachedContext` of its own.

    A row selects and attends in the shapes of a pass of one row, so that its attention is the same to the last bit;
    `ops.row_by_row` sees to the rest of the model. Rows write their keys in order, each before it attends.

    Args:
        config: the model.
        cache: of one sequence. Its length is not moved on: which rows stay is for the caller to say.
        count: new tokens.
        dtype: of the activations.
    """

    def __init__(self, config: ModelConfig, cache: Cache, count: int, dtype: torch.dtype) -> None:
        self._rows = [CachedContext(config, cache, 1, dtype, past=cache.length + number) for number in range(count)]
        self.span = Span.causal(1, count, cache.length, cache.tokens.device)

    @property
    def padding(self) -> Tensor | None:
        """Every row counts."""
        return None

    def history(self, tokens: Tensor) -> History:
        """The tokens behind the n − 1 newest cached ones; the new ones are remembered."""
        seen = self._rows[0].history(tokens)
        earlier = seen.tokens.shape[1] - tokens.shape[1]
        return History.after(seen.tokens[:, :earlier], tokens, self.span.positions)

    def rotation(self) -> tuple[Tensor, Tensor]:
        """Rotary tables of the new positions."""
        cos, sin = zip(*(context.rotation() for context in self._rows), strict=True)
        return torch.cat(cos, dim=1), torch.cat(sin, dim=1)

    def wants_index(self) -> bool:
        """As each row does."""
        return self._rows[0].wants_index()

    def select(self, slot: int, index: IndexInput) -> Selection:
        """Each row chooses for itself; rows that see no more keys than the budget see all of them."""
        chosen = []
        for number, context in enumerate(self._rows):
            own = IndexInput(*(row(item, number, dim=1) for item in (index.query, index.key, index.weight)))
            chosen.append(context.select(slot, own))
        return RowSelections(None, index, tuple(chosen))

    def attend(self, slot: int, queries: Queries, selection: Selection | None) -> tuple[Tensor, Tensor | None]:
        """Each row attends to what it selected: [1, S, h, V]."""
        chosen = selection.rows if isinstance(selection, RowSelections) else (None,) * len(self._rows)
        parts = []
        for number, (context, own) in enumerate(zip(self._rows, chosen, strict=True)):
            new = replace(
                queries,
                q_BShD=row(queries.q_BShD, number, dim=1),
                latent_BSL=row(queries.latent_BSL, number, dim=1),
                rope_key_BSR=row(queries.rope_key_BSR, number, dim=1),
            )
            parts.append(context.attend(slot, new, own)[0])
        return torch.cat(parts, dim=1), None
