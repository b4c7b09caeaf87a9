"""The context seam: which keys a query sees and where they live.

The model hands every attention sublayer's queries and new keys to a context. `FullContext` keeps them as they are
(training, scoring); `CachedContext` appends them to a cache (generation, chunked prefill). Context parallelism and
paged serving caches are further implementations, compared with these.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from homegrown import ops
from homegrown.config import ModelConfig
from homegrown.model.history import History
from homegrown.model.rope import angles
from homegrown.model.sparse import IndexInput, Selection
from homegrown.ops import Span

EXPAND_RATIO = 8
"""Up to this many times the budget, masking expanded keys is cheaper than gathering compressed ones."""


@dataclass(frozen=True)
class Queries:
    """What an attention sublayer asks with.

    Attributes:
        q_BShD: queries, rope lanes rotated.
        latent_BSL: new keys' normalised and scaled latents.
        rope_key_BSR: new keys' rotated shared lanes.
        kv_b_hNVL: the sublayer's up-projection, per head N key rows then V value rows.
        scale: softmax scale τ.
    """

    q_BShD: Tensor
    latent_BSL: Tensor
    rope_key_BSR: Tensor
    kv_b_hNVL: Tensor
    scale: float


class Context(Protocol):
    """What the model needs to know about where keys live."""

    span: Span

    @property
    def padding(self) -> Tensor | None:
        """Which of the new tokens only fill a row up: bool [B, S], or `None` if none does."""

    def history(self, tokens: Tensor) -> History:
        """The new tokens, int64 [B, S], among the earlier ones that n-gram hashing may look back to."""

    def rotation(self) -> tuple[Tensor, Tensor]:
        """Rotary cosine and sine of the new positions, [B, S, R / 2]."""

    def wants_index(self) -> bool:
        """Whether owner sublayers must run their indexer at all."""

    def select(self, slot: int, index: IndexInput) -> Selection:
        """Choose keys for the owner sublayer `slot`."""

    def attend(self, slot: int, queries: Queries, selection: Selection | None) -> tuple[Tensor, Tensor | None]:
        """Core attention of sublayer `slot`: [B, S, h, V], and its indexer loss, summed over queries, where one is
        being trained."""


class FullContext:
    """Whole sequences: every key is in the batch.

    Args:
        config: the model.
        span: the interval of keys each position sees.
        dtype: of the activations (sets the precision of the rotary tables).
        index_loss: train the indexer: `sparse` over the selected keys, `dense` over all visible ones.

    Attributes:
        max_visible: the most keys any query of the rows sees.
    """

    def __init__(self, config: ModelConfig, span: Span, dtype: torch.dtype, index_loss: str = "off") -> None:
        self.config, self.span, self.index_loss = config, span, index_loss
        self.counted: Tensor | None = None
        self.max_visible = span.max_visible
        wide = torch.promote_types(dtype, torch.float32)
        self._rotation = angles(config.rope, config.qk_rope_head_dim, span.positions, wide)

    def counting(self, counted_BS: Tensor) -> FullContext:
        """The same context for a pass in which only some positions count towards the indexer's loss."""
        restricted = copy.copy(self)
        restricted.counted = counted_BS
        return restricted

    @property
    def padding(self) -> Tensor | None:
        """Rows are full."""
        return None

    def history(self, tokens: Tensor) -> History:
        """Nothing precedes a full sequence."""
        return History(tokens, self.span.positions, slice(None))

    def rotation(self) -> tuple[Tensor, Tensor]:
        """Rotary tables of the positions."""
        return self._rotation

    def wants_index(self) -> bool:
        """Only to choose among more keys than the budget, or to learn."""
        return self.index_loss != "off" or self.max_visible > self.config.sparse.topk

    @property
    def restricts(self) -> bool:
        """Whether keys are chosen at all: dense warm-up and short sequences see everything."""
        return self.index_loss != "dense" and self.max_visible > self.config.sparse.topk

    def select(self, slot: int, index: IndexInput) -> Selection:
        """Score the keys and keep the budget's worth of them."""
        if not self.restricts:
            return Selection(None, index)
        chosen = ops.select(index.query, index.key, index.weight, self.span, self.config.sparse)
        return Selection(chosen, index)

    def attend(self, slot: int, queries: Queries, selection: Selection | None) -> tuple[Tensor, Tensor | None]:
        """Expanded keys, or compressed ones where the selection is much smaller than the sequence."""
        positions = selection.positions if selection else None
        learns = selection is not None and self.index_loss != "off"
        length = queries.latent_BSL.shape[1]
        if positions is not None and not learns and length > EXPAND_RATIO * self.config.sparse.topk:
            cache = torch.cat((queries.latent_BSL, queries.rope_key_BSR), dim=-1)
            return self._latent(queries, cache, positions), None
        expanded = ops.expand_keys(queries.latent_BSL, queries.kv_b_hNVL)
        core = (queries.q_BShD, expanded, queries.rope_key_BSR)
        loss = None
        if learns and selection is not None:
            loss = self.index_objective(core, queries.scale, selection)
        return ops.attention(*core, self.span, queries.scale, positions), loss

    def index_objective(self, core: tuple[Tensor, Tensor, Tensor], scale: float, selection: Selection) -> Tensor:
        """The indexer's loss, for core attention's queries, expanded keys and rope keys."""
        index, positions = selection.index, selection.positions
        targets = ops.core_targets(core, self.span, scale, positions)
        return ops.indexer_loss((index.query, index.key, index.weight), targets, self.span, positions, self.counted)

    def _latent(self, queries: Queries, cache: Tensor, positions: Tensor) -> Tensor:
        return ops.latent_attention(queries.q_BShD, cache, queries.kv_b_hNVL, self.span, queries.scale, positions)


@dataclass
class Cache:
    """Compressed keys of one batch of sequences, all of the same length so far.

    Attributes:
        latent: per attention sublayer (MTP's last), [B, capacity, L + R].
        index: per owner sublayer, [B, capacity, D].
        tokens: int64 [B, capacity]: the tokens themselves, for n-gram history.
        length: positions filled. Setting it back forgets the newest ones (speculation).
    """

    latent: dict[int, Tensor]
    index: dict[int, Tensor]
    tokens: Tensor
    length: int = 0
    capacity: int = field(init=False)

    def __post_init__(self) -> None:
        self.capacity = self.tokens.shape[1]

    @classmethod
    def empty(
        cls, config: ModelConfig, batch: int, capacity: int, device: torch.device | str, dtype: torch.dtype
    ) -> Cache:
        """Room for `capacity` positions of `batch` sequences."""
        slots = config.attention_sublayers + config.mtp.layers
        width = config.kv_lora_rank + config.qk_rope_head_dim
        latent = {slot: torch.zeros(batch, capacity, width, device=device, dtype=dtype) for slot in range(slots)}
        owners = owner_slots(config)
        index = {
            slot: torch.zeros(batch, capacity, config.sparse.head_dim, device=device, dtype=dtype) for slot in owners
        }
        return cls(latent, index, torch.full((batch, capacity), -1, device=device))


def owner_slots(config: ModelConfig) -> list[int]:
    """Attention sublayers that own an indexer: every `share`-th, and MTP's where it has one."""
    if not config.sparse.topk:
        return []
    owners = list(range(0, config.attention_sublayers, config.sparse.share))
    if config.mtp.layers and config.mtp.indexer:
        owners.append(config.attention_sublayers)
    return owners


class CachedContext:
    """New tokens after those in a cache; keys are appended as the model runs.

    Args:
        config: the model.
        cache: where the keys live. `commit` moves its length on after the pass.
        count: new tokens per sequence.
        dtype: of the activations.
        past: positions before the new ones; the cache's length if not given.
        prefill: the new tokens are part of a prompt: hierarchical indexing is for these only.
    """

    def __init__(
        self,
        config: ModelConfig,
        cache: Cache,
        count: int,
        dtype: torch.dtype,
        past: int | None = None,
        prefill: bool = False,
    ) -> None:
        self.config, self.cache = config, cache
        self.past = cache.length if past is None else past
        self.prefill = prefill
        if self.past + count > cache.capacity:
            raise ValueError(f"the cache holds {cache.capacity} positions; {self.past} + {count} do not fit")
        device = cache.tokens.device
        self.span = Span.causal(cache.tokens.shape[0], count, self.past, device)
        self._wide = torch.promote_types(dtype, torch.float32)

    @cached_property
    def _rotation(self) -> tuple[Tensor, Tensor]:
        """Made when it is asked for: some only look at the history."""
        return angles(self.config.rope, self.config.qk_rope_head_dim, self.span.positions, self._wide)

    @property
    def padding(self) -> Tensor | None:
        """Every new token counts."""
        return None

    def history(self, tokens: Tensor) -> History:
        """The tokens behind the n − 1 newest cached ones; the new ones are remembered."""
        self.cache.tokens[:, self.past : self.past + tokens.shape[1]] = tokens
        look_back = max(self.config.ngram.order - 1, 0)
        earlier = self.cache.tokens[:, max(self.past - look_back, 0) : self.past]
        return History.after(earlier, tokens, self.span.positions)

    def rotation(self) -> tuple[Tensor, Tensor]:
        """Rotary tables of the new positions."""
        return self._rotation

    def wants_index(self) -> bool:
        """Always: later queries may need these keys' scores."""
        return True

    def select(self, slot: int, index: IndexInput) -> Selection:
        """Remember the index keys; choose once more keys are visible than the budget."""
        keys = _append(self.cache.index[slot], self.past, index.key)
        sparse = self.config.sparse
        if self.span.max_visible <= sparse.topk:
            return Selection(None, index)
        count = index.query.shape[1]
        first_paged = self._first_paged(slot, count)
        parts = [(0, first_paged, False), (first_paged, count, True)]
        chosen = [self._choose(index, keys, start, stop, paged) for start, stop, paged in parts if start < stop]
        return Selection(torch.cat(chosen, dim=1), index)

    def _first_paged(self, slot: int, count: int) -> int:
        """The first new token whose keys are chosen page by page, `count` if none: it depends on what a token sees,
        not on the chunk it came in."""
        sparse = self.config.sparse
        rank = owner_slots(self.config).index(slot)
        if not (sparse.hierarchical and self.prefill and rank >= sparse.hierarchical_skip_owners):
            return count
        return min(max(sparse.hierarchical_threshold - 1 - self.past, 0), count)

    def _choose(self, index: IndexInput, keys: Tensor, start: int, stop: int, paged: bool) -> Tensor:
        span = Span.causal(keys.shape[0], stop - start, self.past + start, keys.device)
        query, weight = index.query[:, start:stop], index.weight[:, start:stop]
        return ops.select(query, keys, weight, span, self.config.sparse, paged)

    def attend(self, slot: int, queries: Queries, selection: Selection | None) -> tuple[Tensor, Tensor | None]:
        """Absorbed attention over the compressed cache."""
        new = torch.cat((queries.latent_BSL, queries.rope_key_BSR), dim=-1)
        keys = _append(self.cache.latent[slot], self.past, new)
        positions = selection.positions if selection else None
        out = ops.latent_attention(queries.q_BShD, keys, queries.kv_b_hNVL, self.span, queries.scale, positions)
        return out, None

    def commit(self) -> None:
        """Count the new positions as filled."""
        self.cache.length = self.past + self.span.first.shape[1]


def _append(buffer: Tensor, past: int, new: Tensor) -> Tensor:
    stop = past + new.shape[1]
    buffer[:, past:stop] = new
    return buffer[:, :stop]
