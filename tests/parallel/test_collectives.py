"""Collectives on real processes against plain arithmetic."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from homegrown.parallel.collectives import (
    TRAFFIC,
    all_gather,
    all_reduce,
    all_to_all,
    exchange,
    gather,
    gather_objects,
    reduce_scatter,
    sum_scatter,
)
from homegrown.parallel.groups import Groups
from homegrown.parallel.layout import Layout
from homegrown.parallel.tree import Accumulator, tree_sum

from .spawn import spawn


def numbers(rank: int, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(rank)).to(dtype)


def cases(world: Any) -> None:
    layout = Layout(dp=2, tp=2)
    groups = Groups(layout, world.rank, 60)
    everyone, rank = groups["world"], world.rank
    assert [groups[kind].ranks for kind in ("tp", "data")] == [layout.members(kind, rank) for kind in ("tp", "data")]

    parts = [numbers(r, 3, 5) for r in range(4)]
    assert torch.equal(gather(parts[rank], everyone), torch.stack(parts))
    assert torch.equal(all_reduce(parts[rank], everyone), (parts[0] + parts[1]) + (parts[2] + parts[3]))
    stacks = [numbers(10 + r, 4, 2, 3) for r in range(4)]
    assert torch.equal(sum_scatter(stacks[rank], everyone), tree_sum([stack[rank] for stack in stacks]))
    assert gather_objects({"rank": rank}, everyone) == [{"rank": r} for r in range(4)]
    pair = groups["data"]
    assert torch.equal(all_reduce(parts[rank], pair), parts[pair.ranks[0]] + parts[pair.ranks[1]])
    counts = torch.tensor([rank, 2**40], dtype=torch.int64)
    assert all_reduce(counts, everyone).tolist() == [6, 2**42]

    # Uneven, empty ones included: rank r sends (r + to) % 3 rows to each.
    def send(r: int) -> list[int]:
        return [(r + to) % 3 for to in range(4)]

    rows = {r: numbers(20 + r, sum(send(r)), 2) for r in range(4)}
    receive = [send(r)[rank] for r in range(4)]
    for dtype in (torch.float32, torch.bfloat16):
        got = exchange(rows[rank].to(dtype), everyone, send(rank), receive)
        wanted = [rows[r].to(dtype).split(send(r))[rank] for r in range(4)]
        assert torch.equal(got, torch.cat(wanted))

    # Gradients: what all processes would get from one function of everybody's input.
    for name in ("all_gather", "reduce_scatter", "all_to_all"):
        inputs = [numbers(30 + r, 4, 8, dtype=torch.float64).requires_grad_() for r in range(4)]
        weights = [numbers(40 + r, 16, 8, dtype=torch.float64) for r in range(4)]
        mine = inputs[rank].detach().clone().requires_grad_()
        if name == "all_gather":
            out = all_gather(mine, everyone, 0)
            outs = [torch.cat(inputs)] * 4
        elif name == "reduce_scatter":
            out = reduce_scatter(mine, everyone, 1)
            outs = [sum(inputs)[:, 2 * r : 2 * r + 2] for r in range(4)]
        else:
            out = all_to_all(mine, everyone, [1, 1, 1, 1], [1, 1, 1, 1])
            outs = [torch.stack([x[r] for x in inputs]) for r in range(4)]
        torch.testing.assert_close(out, outs[rank].detach(), rtol=1e-14, atol=1e-14)
        (out * weights[rank][: out.shape[0], : out.shape[1]]).sum().backward()
        total = sum((o * w[: o.shape[0], : o.shape[1]]).sum() for o, w in zip(outs, weights, strict=True))
        total.backward()
        torch.testing.assert_close(mine.grad, inputs[rank].grad, rtol=1e-13, atol=1e-13)
    assert TRAFFIC.totals["all_to_all", "world"][0] > 0


def test_collectives():
    spawn(4, cases)


@pytest.mark.parametrize("count", range(1, 18))
def test_addends_one_by_one_give_the_tree(count):
    parts = [numbers(index, 50) for index in range(count)]
    accumulator = Accumulator()
    for part in parts:
        accumulator.push(part.clone())
    assert torch.equal(accumulator.total(), tree_sum([part.clone() for part in parts]))
    assert accumulator.total() is None


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_tree_does_not_depend_on_who_sums(ranks):
    parts = [numbers(index, 50) for index in range(8)]
    whole = tree_sum([part.clone() for part in parts])
    each = 8 // ranks
    partial = [tree_sum([part.clone() for part in parts[r * each : (r + 1) * each]]) for r in range(ranks)]
    assert torch.equal(tree_sum(partial), whole)


def test_sparse_sum():
    """Rows of several sparse gradients add up in the same order as dense ones."""
    dense = [numbers(index, 6, 3) * (torch.arange(6)[:, None] % (index + 1) == 0) for index in range(5)]
    total = tree_sum([part.to_sparse(1).coalesce() for part in dense])
    assert total.is_coalesced()
    assert torch.equal(total.to_dense(), tree_sum([part.clone() for part in dense]))
