"""The memory of the key cache: one buffer per attention sublayer, cut into pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from homegrown.config import ModelConfig
from homegrown.model.context import owner_slots
from homegrown.serve.engine.stretch import Stretch

Kind = Literal["latent", "index"]
Watch = Callable[[Kind, int, Sequence[Stretch], Tensor], None]
"""Told what has just been written: kind and slot of the buffer, whose rows these are, and the rows [N, W]."""

# Shape suffixes: C cells (a cell is the room of one position in a page), W latent and rope width, P pages, H hidden.


def widths(config: ModelConfig, drafts: bool) -> tuple[dict[int, int], dict[int, int]]:
    """Numbers in a cell of each attention sublayer's keys, and of each owner's index keys.

    Args:
        config: the model.
        drafts: whether the draft block has keys, too.
    """
    slots = config.attention_sublayers + (config.mtp.layers if drafts else 0)
    latent = dict.fromkeys(range(slots), config.kv_lora_rank + config.qk_rope_head_dim)
    return latent, {slot: config.sparse.head_dim for slot in owner_slots(config) if slot in latent}


def page_bytes(config: ModelConfig, page_size: int, dtype: torch.dtype, drafts: bool = True) -> int:
    """Memory of one page in all buffers together."""
    latent, index = widths(config, drafts)
    state = config.hidden_size if drafts and config.mtp.layers else 0
    return (page_size * sum((*latent.values(), *index.values())) + state) * dtype.itemsize


@dataclass(frozen=True)
class HostPages:
    """Copies of pages in the host's memory.

    Attributes:
        count: pages.
        tensors: their part of each buffer, in the order of `PageBuffers.all`.
    """

    count: int
    tensors: tuple[Tensor, ...]


class PageBuffers:
    """Tensors that hold every page.

    Page 0 belongs to nobody and stays zero: it stands in for pages where shorter sequences have none.

    Args:
        config: the model.
        pages: room for so many besides page 0.
        page_size: positions in a page.
        device, dtype: of the keys.
        drafts: keep the draft block's keys and the states it continues from.

    Attributes:
        latent: per attention sublayer (the draft block's last), [C, W]: the normalised latent and the rotated key.
            The draft block's row for state h_i and token x_{i+1} lies in the cell of position i + 1, so that what a
            page holds depends on the tokens up to its end, and on none behind it.
        index: per owner sublayer, [C, D].
        states: [P, H]: of each page, the state (`Longcat.draft_start`) behind its newest token; `None` without drafts.
        watch: is told about keys as soon as they are written, while later sublayers are still to be computed.
    """

    def __init__(
        self,
        config: ModelConfig,
        pages: int,
        page_size: int,
        device: torch.device | str,
        dtype: torch.dtype,
        drafts: bool = True,
    ) -> None:
        self.page_size, self.drafts = page_size, drafts and config.mtp.layers > 0
        latent, index = widths(config, self.drafts)
        cells = (pages + 1) * page_size

        def zeros(rows: int, width: int) -> Tensor:
            return torch.zeros(rows, width, device=device, dtype=dtype)

        self.latent = {slot: zeros(cells, width) for slot, width in latent.items()}
        self.index = {slot: zeros(cells, width) for slot, width in index.items()}
        self.states = zeros(pages + 1, config.hidden_size) if self.drafts else None
        self.watch: Watch | None = None

    @property
    def device(self) -> torch.device:
        """Where the pages are."""
        return self.latent[0].device

    @property
    def dtype(self) -> torch.dtype:
        """Of the keys."""
        return self.latent[0].dtype

    @property
    def all(self) -> list[Tensor]:
        """Every buffer as [P, numbers of a page]."""
        cells = [buffer.view(-1, self.page_size * buffer.shape[1]) for buffer in self._cells()]
        return cells if self.states is None else [*cells, self.states]

    def _cells(self) -> list[Tensor]:
        return [*self.latent.values(), *self.index.values()]

    @property
    def kinds(self) -> list[tuple[Kind, dict[int, Tensor]]]:
        """The buffers of keys, by kind and slot."""
        return [("latent", self.latent), ("index", self.index)]

    def gather(self, buffer_CW: Tensor, table: Tensor) -> Tensor:
        """Whole pages side by side: int64 [B, N] page numbers -> [B, N · page_size, W]."""
        pages = buffer_CW.view(-1, self.page_size, buffer_CW.shape[1]).index_select(0, table.flatten())
        return pages.view(table.shape[0], -1, buffer_CW.shape[1])

    def write(self, kind: Kind, slot: int, cells: Sequence[int], rows: Tensor) -> None:
        """Write rows that were computed elsewhere: [n, W], on any device."""
        _put(getattr(self, kind)[slot], cells, rows)

    def write_states(self, pages: Sequence[int], rows: Tensor) -> None:
        """The same for the states behind pages' newest tokens, [n, H].

        Raises:
            ValueError: none are kept.
        """
        if self.states is None:
            raise ValueError("states are not kept: these pages were made without drafts")
        _put(self.states, pages, rows)

    def save(self, pages: Sequence[int]) -> HostPages:
        """Copy pages to the host."""
        index = torch.tensor(pages, dtype=torch.int64, device=self.device)
        return HostPages(len(pages), tuple(buffer.index_select(0, index).cpu() for buffer in self.all))

    def restore(self, host: HostPages, pages: Sequence[int]) -> None:
        """Copy pages back from the host.

        Raises:
            ValueError: their number is another one.
        """
        if len(pages) != host.count:
            raise ValueError(f"{host.count} pages were saved; they cannot be restored into {len(pages)}")
        index = torch.tensor(pages, dtype=torch.int64, device=self.device)
        for buffer, saved in zip(self.all, host.tensors, strict=True):
            buffer.index_copy_(0, index, saved.to(self.device))

    def clear(self, pages: Sequence[int]) -> None:
        """Set pages to zero."""
        index = torch.tensor(pages, dtype=torch.int64, device=self.device)
        for buffer in self.all:
            buffer.index_fill_(0, index, 0)


def _put(buffer: Tensor, places: Sequence[int], rows: Tensor) -> None:
    index = torch.tensor(places, dtype=torch.int64, device=buffer.device)
    buffer.index_copy_(0, index, rows.to(buffer.device))
