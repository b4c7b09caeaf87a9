"""The draft block's choice of keys, between the groups that operators work on and the rows of a native pass."""

from __future__ import annotations

import torch

from homegrown.model.native import UNSCORED, Chosen
from homegrown.serve.engine.context import PagedSelection
from homegrown.serve.engine.layout import Layout


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
