"""Rows spread over ranks against one process: every loss term and every gradient, in float64."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from homegrown.config import SparseConfig
from homegrown.parallel.groups import Groups
from homegrown.parallel.layout import Layout
from homegrown.parallel.sequence import SequencePortion

from .spawn import spawn
from .wholes import Case, Totals, check_totals, one_process, spread

# Shard edges of 32 positions: at multiples of 4 for cp 4, of 8 for the others. Budget: 12 keys.
EDGES = ((8, 16, 24), (7, 17), (9, 23), (4, 15, 28))
FEW = SparseConfig(topk=4, heads=4, head_dim=8, init_tokens=1, local_tokens=2)

CASES: dict[str, Case] = {
    "long rows": Case(32, ends=(3, 4, 7, 8, 15, 16, 23, 31)),
    "packed": Case(32, EDGES, ends=(6, 14, 20)),
    "packed, recomputed": Case(32, EDGES, recompute=True),
    "packed, dense stage": Case(32, EDGES, losses={"indexer_stage": "dense"}),
    "filled up": Case(29, ((8,), (7, 27), (28,), ())),
    "filled up by more than a slice": Case(9, ((), (5,), (), (8,))),
    "short rows": Case(8, ((), (4,), (3,), (1, 7))),
    "compressed keys": Case(40, ((), (19,), (21,), ()), model={"sparse": FEW}, losses={"indexer_every": 0}),
    "no selection": Case(32, EDGES, model={"sparse": SparseConfig()}),
}
LAYOUTS: dict[str, Layout] = {
    "tp2": Layout(dp=2, tp=2, part_layers=(2,)),
    "tp4": Layout(tp=4, part_layers=(2,)),
    "cp2": Layout(dp=2, cp=2, part_layers=(2,)),
    "cp4": Layout(cp=4, part_layers=(2,)),
    "cp2 tp2": Layout(cp=2, tp=2, part_layers=(2,)),
}


def on_four(world: Any) -> dict[tuple[str, str], Totals]:
    found = {}
    for layout_name, layout in LAYOUTS.items():
        groups = Groups(layout, world.rank, 60)
        for name, case in CASES.items():
            found[layout_name, name] = spread(case, groups, SequencePortion(groups))
    return found if world.rank == 0 else {}


@pytest.fixture(scope="module")
def four() -> dict[tuple[str, str], Totals]:
    return spawn(4, on_four)[0]


@cache
def expected(name: str) -> Totals:
    return one_process(CASES[name])


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_terms_and_gradients(four, layout, name):
    check_totals(four[layout, name], expected(name))
