"""Rows spread over ranks against one process: every loss term and every gradient, in float64."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import pytest
import torch

from homegrown.config import SparseConfig
from homegrown.ops.rows import row_by_row
from homegrown.parallel.groups import Groups
from homegrown.parallel.layout import Layout
from homegrown.parallel.rowsplit import columns
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
SOME = ("packed", "filled up", "filled up by more than a slice")
MORE = (*SOME, "packed, dense stage", "short rows", "compressed keys", "long rows")
LAYOUTS: dict[str, tuple[Layout, tuple[str, ...]]] = {
    "tp2": (Layout(dp=2, tp=2, part_layers=(2,)), SOME),
    "tp4": (Layout(tp=4, part_layers=(2,)), MORE),
    "cp2": (Layout(dp=2, cp=2, part_layers=(2,)), SOME),
    "cp4": (Layout(cp=4, part_layers=(2,)), MORE),
    "cp2 tp2": (Layout(cp=2, tp=2, part_layers=(2,)), tuple(CASES)),
    "cp2 tp2 dp2": (Layout(dp=2, cp=2, tp=2, part_layers=(2,)), ("packed", "filled up")),
}
PAIRS = [(layout, name) for layout, (_, names) in LAYOUTS.items() for name in names]


def run_cases(world: Any) -> tuple[dict[tuple[str, str], Totals], bool]:
    """All cases of the layouts of this many ranks, from rank 0; whether the forward pass was the same, bit for bit."""
    found = {}
    for layout_name, (layout, names) in LAYOUTS.items():
        if layout.world == world.size:
            groups = Groups(layout, world.rank, 60)
            for name in names:
                found[layout_name, name] = spread(CASES[name], groups, SequencePortion(groups))
    return (found if world.rank == 0 else {}), world.size == 4 and forward_is_bitwise(world)


def forward_is_bitwise(world: Any) -> bool:
    """Context parallelism changes no arithmetic, only how many rows a product has and where attention's blocks begin.

    With rows computed one by one and blocks that end where chunks of the zig-zag do, every bit of the hidden states
    must be the same.
    """
    case, layout = CASES["packed"], LAYOUTS["cp4"][0]
    model, micro = case.whole_model().float(), case.micro_batches()[0]
    tokens = micro.tokens[:, :-1]
    portion = SequencePortion(Groups(layout, world.rank, 60))
    attention = sys.modules["homegrown.ops.attention"]  # under its name stands the op
    with pytest.MonkeyPatch.context() as patch, row_by_row(), torch.no_grad():
        patch.setattr(attention, "CHUNK", case.length // 8)
        whole = model.trunk(tokens, model.context(tokens, micro.first[:, :-1])).hidden
        context = portion.context(model, micro.tokens, micro.first, "off")
        hidden = model.through(model.embed(portion.take(tokens, 0), context), context).hidden
    return torch.equal(hidden, whole[:, columns(portion.split(case.length).own_runs)])


@cache
def outcome(world: int) -> list[tuple[dict[tuple[str, str], Totals], bool]]:
    return spawn(world, run_cases)


@cache
def expected(name: str) -> Totals:
    return one_process(CASES[name])


@pytest.mark.parametrize(
    ("layout", "name"), [(layout, name) for layout, (_, names) in LAYOUTS.items() for name in names]
)
def test_terms_and_gradients(layout, name):
    found, _ = outcome(LAYOUTS[layout][0].world)[0]
    check_totals(found[layout, name], expected(name))


def test_forward_is_bitwise():
    assert all(bitwise for _, bitwise in outcome(4))
