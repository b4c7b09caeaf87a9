"""Passes over pages in C: what they are told of stretches, pages, and the draft block's choice of keys."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from homegrown.model.native import UNSCORED, Chosen, Keys, NativeModel, Rows, native
from homegrown.serve.engine.buffers import PageBuffers
from homegrown.serve.engine.context import PagedSelection
from homegrown.serve.engine.layout import Layout
from homegrown.serve.engine.served import Served
from homegrown.serve.engine.stretch import Stretch


def side_of(model: Served, buffers: PageBuffers, look: bool = True) -> NativeModel | None:
    """What runs all rows but prompts', where the model has it and nobody must see keys as they are written; `look`: see
    `native`."""
    return native(model, look) if buffers.watch is None and buffers.dtype == model.dtype else None


def rows_of(stretches: Sequence[Stretch], shift: int = 0) -> list[Rows]:
    """Stretches whose rows are computed `shift` positions before their tokens' own."""
    return [Rows(stretch.past - shift, stretch.count, stretch.pages) for stretch in stretches]


def keys_of(buffers: PageBuffers, shift: int = 0) -> Keys:
    """The pages."""
    return Keys(buffers.latent, buffers.index, buffers.page_size, shift)


def chosen_of(selection: PagedSelection, layout: Layout) -> Chosen:
    """A first step's choice, for rows that are those of the layout's groups in their order, one a stretch."""
    widest = max((cells.shape[2] for cells in selection.cells if cells is not None), default=1)
    made = Chosen(torch.zeros(layout.count, widest, dtype=torch.int64), torch.zeros(layout.count, dtype=torch.int64))
    for group, cells in zip(layout.groups, selection.cells, strict=True):
        if cells is not None:
            made.cells[group, : cells.shape[2]] = cells[0]
            made.counts[group] = cells.shape[2]
    return made


def selection_of(chosen: Chosen, layout: Layout) -> PagedSelection:
    """The choice of each group's rows; those of a group choose alike or not at all."""
    rows = [[layout.starts[number] for number in group] for group in layout.groups]
    cells = [chosen.cells[own][None] if chosen.counts[own[0]] else None for own in rows]
    return PagedSelection(None, UNSCORED, tuple(cells))
